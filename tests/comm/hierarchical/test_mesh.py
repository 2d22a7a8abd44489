"""A mesh is one attempt of all ranks: who failed takes the others along into the next."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest
from torch._C._distributed_c10d import HashStore, Store

from pyparallel.comm.hierarchical.mesh import connect_mesh

Make = Callable[[int, int], str]


def connect_ranks(
    world_size: int, make: Make, *, timeout_seconds: float = 60, stopped: bool = False
) -> list[str | RuntimeError]:
    """Threads as ranks; `make(rank, attempt)` stands for Gloo."""
    store = HashStore()
    results: list[str | RuntimeError] = [""] * world_size

    def run(rank: int) -> None:
        attempts = iter(range(100))

        def make_of_rank(part: Store) -> str:
            return make(rank, next(attempts))

        try:
            results[rank] = connect_mesh(
                make_of_rank,
                store,
                rank=rank,
                world_size=world_size,
                timeout_seconds=timeout_seconds,
                stopped=lambda: stopped,
            )
        except RuntimeError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("failed", [0, 1, 2])
def test_all_ranks_hold_the_mesh_of_the_same_attempt(failed: int, seed: int) -> None:
    chosen = random.Random(seed)
    broken = {(chosen.randrange(4), attempt) for attempt in range(failed)}

    def make(rank: int, attempt: int) -> str:
        if (rank, attempt) in broken:
            raise RuntimeError("Connection closed by peer\nmore")
        return f"mesh {attempt}"

    assert connect_ranks(4, make) == [f"mesh {failed}"] * 4


def test_the_last_failure_is_told_on_all_ranks() -> None:
    def make(rank: int, attempt: int) -> str:
        if rank == 1:
            raise RuntimeError(f"closed {attempt}\nmore")
        return "mesh"

    assert [str(result) for result in connect_ranks(3, make)] == ["closed 2"] * 3


def never(rank: int, attempt: int) -> str:
    if rank == 1:
        threading.Event().wait(1)
    return "mesh"


def test_who_does_not_come_is_named() -> None:
    assert str(connect_ranks(2, never, timeout_seconds=0.1)[0]) == "rank 1 did not come"


def test_a_closed_communicator_waits_for_nobody() -> None:
    assert str(connect_ranks(2, never, stopped=True)[0]) == "the communicator is closed"
