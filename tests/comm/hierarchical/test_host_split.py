"""Parts of a communicator over hosts: in order of key, in shared memory where they can be."""

from __future__ import annotations

import pytest
import torch

import pyparallel
from host_inputs import hosts
from pyparallel.comm import HierarchicalCommunicator, ShmCommunicator, SoloCommunicator
from pyparallel.errors import PeerFailedError
from ranks import run_ranks


def split_in_three_ways() -> list[str]:
    communicator = pyparallel.init().communicator
    rank = communicator.rank
    within = communicator.split(rank // 2)
    across = communicator.split(rank % 2, key=-rank)
    some = communicator.split(None if rank == 3 else 7)
    assert within is not None
    assert across is not None
    assert (within.rank, within.world_size) == (rank % 2, 2)
    assert (across.rank, across.world_size) == (1 - rank // 2, 2)
    assert set(communicator.parts) == {part for part in (within, across, some) if part}
    sums = []
    for part in (within, across, some):
        if part is not None:
            tensor = torch.full((1001,), float(rank))
            part.all_reduce(tensor).wait()
            sums.append(tensor[0].item())
    assert sums == [[1.0, 2.0, 3.0], [1.0, 4.0, 3.0], [5.0, 2.0, 3.0], [5.0, 4.0]][rank]
    inner = across.split(rank)
    assert isinstance(inner, SoloCommunicator)
    across.close()
    communicator.barrier().wait()  # the others go on without it
    return [type(part).__name__ for part in (within, across)]


def test_parts_are_ordered_by_key_and_as_near_as_their_hosts() -> None:
    for kinds in run_ranks(4, split_in_three_ways, environment=hosts("aabb")):
        assert kinds == [ShmCommunicator.__name__, HierarchicalCommunicator.__name__]


def fail_in_a_part() -> None:
    communicator = pyparallel.init().communicator
    part = communicator.split(communicator.rank % 2)
    assert part is not None
    communicator.barrier().wait()  # nobody is still joining a part that fails
    if communicator.rank % 2 == 0:
        if part.rank == 1:
            part.abort("only here")
        with pytest.raises(PeerFailedError, match="only here"):
            part.barrier().wait()
    else:
        part.barrier().wait()
    communicator.barrier().wait()


def test_a_part_fails_on_its_own() -> None:
    run_ranks(4, fail_in_a_part, environment=hosts("aabb"))
