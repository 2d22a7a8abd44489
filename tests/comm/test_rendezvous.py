"""Ranks find each other, or say which one they miss and what they disagree about."""

from __future__ import annotations

import pyparallel
from pyparallel.comm import rendezvous
from pyparallel.errors import CollectiveTimeoutError
from ranks import errors_of_ranks


def start() -> None:
    pyparallel.init()


def test_world_sizes_that_disagree_are_named_on_every_rank() -> None:
    errors = errors_of_ranks(
        2, start, environment=lambda rank: {"WORLD_SIZE": "2" if rank == 0 else "3"}
    )
    for rank, error in enumerate(errors):
        assert isinstance(error, ValueError), error
        own, other = (2, 3) if rank == 0 else (3, 2)
        assert f"rank {rank} was started with a world size of {own}" in str(error)
        assert str(error).endswith(f"with {other}")


def start_alone() -> None:
    pyparallel.init(timeout_seconds=0.5)


def test_a_rank_that_never_comes_is_named() -> None:
    (error,) = errors_of_ranks(1, start_alone, environment={"WORLD_SIZE": "2"})
    assert isinstance(error, CollectiveTimeoutError)
    assert "for rank 1, which did not come" in str(error)


def on_two_hosts() -> tuple[bool, list[str]]:
    rank, world_size = 0, 2
    records = [
        {"world_size": 2, "host": "a/1/1", "process": 1, "control": 3},
        {"world_size": 2, "host": "b/2/2", "process": 2, "control": -1},
    ]
    communicator, seen = rendezvous.meet(
        lambda _: iter(records), rank=rank, world_size=world_size, timeout_seconds=1
    )
    return communicator is None, [record["host"] for record in seen]


def test_ranks_on_two_hosts_do_not_share_memory() -> None:
    assert on_two_hosts() == (True, ["a/1/1", "b/2/2"])


def test_the_host_is_the_same_for_processes_that_see_each_other() -> None:
    assert rendezvous.host_identity() == rendezvous.host_identity()
    assert rendezvous.host_identity().count("/") == 2
