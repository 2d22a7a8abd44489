"""Records come through the store when somebody asks; nobody waits for a store that is gone."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch.distributed as dist

from pyparallel.comm._flight_exchange import FlightExchange


class Ranks:
    """Of one process: a question reaches the others as the watch would carry it."""

    def __init__(self, world_size: int, store: Any = None) -> None:
        store = store or dist.HashStore()
        self.records = [{"rank": rank, "version": 0} for rank in range(world_size)]
        self.deaf: set[int] = set()
        self.exchanges = [
            FlightExchange(store, rank, world_size, lambda rank=rank: dict(self.records[rank]))
            for rank in range(world_size)
        ]

    def collect(self, rank: int, *, seconds: float = 20) -> dict[int, Any]:
        def ask(number: int) -> bool:
            for other, exchange in enumerate(self.exchanges):
                if other != rank and other not in self.deaf:
                    exchange.answer(number)
            return True

        return self.exchanges[rank].collect(ask, seconds)


def test_every_answer_is_newer_than_its_question() -> None:
    ranks = Ranks(4)
    for version in range(30):
        for record in ranks.records:
            record["version"] = version
        expected = {rank: {"rank": rank, "version": version} for rank in (0, 1, 3)}
        assert ranks.collect(2) == expected


def test_all_may_ask_at_once() -> None:
    ranks, found = Ranks(5), {}

    def ask(rank: int) -> None:
        found[rank] = set(ranks.collect(rank))

    threads = [threading.Thread(target=ask, args=(rank,)) for rank in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {rank: set(range(5)) - {rank} for rank in range(5)}


def test_a_rank_that_asks_answers_lower_questions_that_do_not_reach_it() -> None:
    ranks, found = Ranks(2), []
    ranks.deaf = {1}
    asking = threading.Thread(target=lambda: found.append(set(ranks.collect(0))))
    asking.start()
    while asking.is_alive():
        ranks.collect(1)
    assert found == [{1}]


def test_who_does_not_answer_is_left_out() -> None:
    ranks = Ranks(3)
    assert set(ranks.collect(0)) == {1, 2}
    ranks.deaf = {1}  # its answer to the first question is in the store
    assert set(ranks.collect(0, seconds=0.3)) == {2}


def test_what_a_failed_rank_left_behind_is_found() -> None:
    ranks = Ranks(3)
    ranks.exchanges[1].publish_last()
    ranks.deaf = {1}
    assert set(ranks.collect(0)) == {1, 2}


def test_one_rank_asks_nobody() -> None:
    assert Ranks(1).collect(0) == {}


def test_who_has_left_takes_what_is_there_and_waits_for_nothing() -> None:
    ranks = Ranks(2)
    assert ranks.exchanges[0].collect(lambda number: False, 1000) == {}


class GoneStore:
    """The connection is closed."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Any:
            raise dist.DistNetworkError("Connection reset by peer")

        return call


class MuteStore:
    """The host behind it is cut off."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Any:
            self.over.wait(60)
            raise dist.DistNetworkError("Connection timed out")

        return call


def test_a_closed_store_ends_the_question() -> None:
    ranks = Ranks(2, GoneStore())
    assert ranks.collect(0, seconds=1000) == {}
    ranks.exchanges[1].publish_last()


def test_a_mute_store_holds_nobody_up() -> None:
    store = MuteStore()
    ranks = Ranks(2, store)
    before = time.monotonic()
    ranks.exchanges[1].publish_last()
    ranks.exchanges[1].answer(3)
    assert ranks.collect(0, seconds=0.2) == {}
    assert time.monotonic() - before < 30  # not the store's 60 s
    store.over.set()
