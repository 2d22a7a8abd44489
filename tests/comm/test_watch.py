"""A failure of one rank is known to all within two seconds, whatever the rank was doing."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from typing import Any

import pytest
import torch.distributed as dist

from pyparallel.comm.watch import Failure, FailureWatch
from pyparallel.errors import CollectiveTimeoutError, PeerFailedError, PeerLostError
from ranks import Job, errors_of_ranks, meet, run_ranks, tell_test

Seen = tuple[Failure | None, int, list[int]]


class Rank:
    """One rank's watch and what it has told."""

    def __init__(self, **options: Any) -> None:
        self.rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        master = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        store = dist.PrefixStore("watch", dist.TCPStore(*master, is_master=False))
        self.told = threading.Event()
        self.seen: list[tuple[Failure, int]] = []
        self.left: list[int] = []
        options = {"timeout_seconds": 20, "on_left": self.left.append, **options}
        self.watch = FailureWatch(store, self.rank, world_size, self.on_failure, **options)

    def on_failure(self, failure: Failure) -> None:
        self.seen.append((failure, time.monotonic_ns()))
        self.told.set()

    def wait(self) -> Seen:
        assert self.told.wait(20), "nobody told of a failure"
        time.sleep(0.1)  # a second one would come now
        assert len(self.seen) == 1
        assert self.watch.failure == self.seen[0][0]
        return (*self.seen[0], sorted(self.left))


def wait_for_failure() -> Seen:
    rank = Rank()
    tell_test("ready")
    return rank.wait()


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_a_killed_rank_is_named_on_all_others(world_size: int, seed: int) -> None:
    victim = random.Random(seed).randrange(world_size)
    with Job(world_size, wait_for_failure) as job:
        for rank in range(world_size):
            job.receive(rank)
        killed = job.kill(victim)
        outcomes = job.outcomes()
    for outcome in outcomes:
        if outcome.rank == victim:
            continue
        assert outcome.error is None, outcome.error
        failure, at, _ = outcome.value
        assert (failure.rank, failure.lost) == (victim, True)
        assert at - killed < 2_000_000_000
        assert isinstance(failure.error("waiting"), PeerLostError)


def fail_on_one(victim: int) -> Seen:
    rank = Rank()
    meet("watching")
    if rank.rank != victim:
        return rank.wait()
    failed = time.monotonic_ns()
    rank.watch.fail("all_reduce(5 x float32)", 'a "cause"\nof two lines')
    rank.watch.fail("barrier()", "a second one does not count")
    assert not rank.told.wait(0.3), "it has told itself"
    return None, failed, []


def test_a_failed_rank_gives_its_operation_and_cause_to_all(seed: int) -> None:
    victim = random.Random(seed).randrange(4)
    seen = run_ranks(4, fail_on_one, victim)
    for rank in set(range(4)) - {victim}:
        failure, at, _ = seen[rank]
        assert failure == Failure(
            victim, "all_reduce(5 x float32)", 'a "cause"\nof two lines', lost=False
        )
        assert at - seen[victim][1] < 2_000_000_000
        error = failure.error(f"rank {rank} was in barrier()")
        assert isinstance(error, PeerFailedError)
        assert f"rank {victim} failed in all_reduce(5 x float32): a" in str(error)
        assert f"rank {rank} was in barrier()" in str(error)


def leave_one_after_the_other() -> tuple[list[int], int]:
    rank = Rank()
    meet("watching")
    while len(rank.left) < rank.rank:
        time.sleep(0.01)
    left = sorted(rank.left)  # who leaves while this rank does may be heard of, too
    rank.watch.close()
    rank.watch.close()
    return left, len(rank.seen)


def test_leaving_is_no_failure_and_is_told() -> None:
    assert run_ranks(3, leave_one_after_the_other) == [([], 0), ([0], 0), ([0, 1], 0)]


def ask_the_others() -> tuple[list[int], bool]:
    heard: list[int] = []
    rank = Rank(on_asked=heard.append)
    meet("watching")
    if rank.rank == 1:
        assert rank.watch.ask(7)
        assert rank.watch.ask(3)  # 7 is under way
        rank.watch.ask(8)
    deadline = time.monotonic() + 20
    while rank.rank != 1 and heard[-1:] != [8] and time.monotonic() < deadline:
        time.sleep(0.005)
    meet("asked")
    rank.watch.close()
    return heard, rank.watch.ask(9)


def test_a_question_reaches_every_other_rank_once() -> None:
    others = ([7, 8], False)
    assert run_ranks(4, ask_the_others) == [others, ([], False), others, others]


def die_after_another_left() -> Seen:
    rank = Rank()
    meet("watching")
    if rank.rank == 1:
        rank.watch.close()
        return None, 0, []
    while rank.left != [1]:
        time.sleep(0.01)
    tell_test("ready")
    return rank.wait()


def test_the_others_go_on_watching_after_one_has_left() -> None:
    with Job(4, die_after_another_left) as job:
        for rank in (0, 2, 3):
            job.receive(rank)
        job.kill(2)
        outcomes = job.outcomes()
    for rank in (0, 3):
        assert outcomes[rank].error is None, outcomes[rank].error
        assert (outcomes[rank].value[0].rank, outcomes[rank].value[2]) == (2, [1])


def live_on_in_a_child() -> Seen:
    rank = Rank()
    if rank.rank == 1 and os.fork() == 0:
        tell_test(os.getpid())
        time.sleep(30)
        os._exit(0)
    tell_test("ready")
    return rank.wait()


def test_a_forked_child_does_not_hide_its_parents_death() -> None:
    with Job(3, live_on_in_a_child) as job:
        messages = [job.receive(0), job.receive(2), job.receive(1), job.receive(1)]
        (child,) = [message for message in messages if isinstance(message, int)]
        killed = job.kill(1)
        try:
            values = [job._links[rank].recv()[1] for rank in (0, 2)]
        finally:
            os.kill(child, signal.SIGKILL)
    for failure, at, _ in values:
        assert failure.rank == 1
        assert at - killed < 2_000_000_000


def be_stopped() -> Seen:
    rank = Rank(silence_seconds=1)
    tell_test("ready")
    if rank.rank == 0:
        return rank.wait()
    assert not rank.told.wait(20) or rank.rank == 2, rank.seen
    return rank.wait()


def test_a_stopped_rank_is_not_lost() -> None:
    with Job(3, be_stopped) as job:
        for rank in range(3):
            job.receive(rank)
        job.kill(1, signal.SIGSTOP)
        time.sleep(2.5)
        killed = job.kill(1)
        outcomes = {rank: job._links[rank].recv()[1] for rank in (0, 2)}
    for failure, at, _ in outcomes.values():
        assert failure.rank == 1
        assert at > killed


def test_strangers_are_turned_away_while_the_neighbour_is_awaited() -> None:
    failures: list[Failure] = []
    store, greetings = dist.HashStore(), [b"hello\n", b"wrong 1\n", b"", b"x" * 500, b"\xff\n"]
    join = threading.Thread(
        target=lambda: watches.append(FailureWatch(store, 0, 2, failures.append))
    )
    watches: list[FailureWatch] = []
    with socket.create_server(("127.0.0.1", 0)) as neighbour:
        host, port = neighbour.getsockname()
        store.set("watch1", json.dumps({"host": host, "port": port, "token": "t"}))
        join.start()
        place = json.loads(store.get("watch0"))
        for greeting in greetings:
            with socket.create_connection((place["host"], place["port"])) as stranger:
                stranger.sendall(greeting)
        assert not watches
        link = socket.create_connection((place["host"], place["port"]))
        link.sendall(f"{place['token']} 1\n".encode())
        join.join(10)
        assert len(watches) == 1
        assert not failures
        link.close()
        deadline = time.monotonic() + 10
        while not failures and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [(failure.rank, failure.lost) for failure in failures] == [(1, True)]
    watches[0].close()


def come_alone() -> None:
    Rank(timeout_seconds=0.3)


def test_a_rank_that_does_not_come_is_named() -> None:
    (error,) = errors_of_ranks(1, come_alone, environment={"WORLD_SIZE": "3"})
    assert isinstance(error, CollectiveTimeoutError)
    assert "rank 0 waited for rank 1, which did not come" in str(error)


def test_a_rank_that_is_gone_already_is_named() -> None:
    store = dist.HashStore()
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    store.set("watch1", f'{{"host": "127.0.0.1", "port": {port}, "token": ""}}')
    with pytest.raises(PeerLostError, match="rank 1 died before rank 0 could reach it") as caught:
        FailureWatch(store, 0, 2, print)
    assert caught.value.rank == 1


def test_a_world_of_one_has_nobody_to_watch() -> None:
    threads = threading.active_count()
    watch = FailureWatch(dist.HashStore(), 0, 1, print)
    assert threading.active_count() == threads
    watch.fail("all_reduce", "nobody hears it")
    watch.close()
