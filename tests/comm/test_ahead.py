"""A communicator whose operations overtake: right beside the other's, on every kind."""

from __future__ import annotations

import random

import pytest
import torch
import torch.distributed as dist

import pyparallel
from pyparallel.comm import Communicator, GroupCommunicator, SoloCommunicator, ahead_of
from pyparallel.errors import PeerFailedError
from ranks import run_ranks


def mixed(seed: int) -> None:
    """Operations of three levels, issued and waited for in another order on every rank."""
    base = pyparallel.init().communicator
    ahead = ahead_of(base)
    levels = [base, ahead, ahead_of(ahead)]
    common, own = random.Random(seed), random.Random(seed + base.rank)
    queues: list[list[torch.Tensor]] = [
        [torch.full((common.choice([1, 1000, 300_001]),), level + 1.0) for _ in range(8)]
        for level in range(3)
    ]
    order = [level for level in range(3) for _ in range(8)]
    own.shuffle(order)
    works = []
    taken = [0, 0, 0]
    for level in order:
        tensor = queues[level][taken[level]]
        taken[level] += 1
        works.append(levels[level].all_reduce(tensor, background=own.random() < 0.5))
    own.shuffle(works)
    for work in works:
        work.wait()
    for level, tensors in enumerate(queues):
        for tensor in tensors:
            assert tensor.unique().tolist() == [(level + 1.0) * base.world_size]
    base.barrier().wait()


@pytest.mark.parametrize("layout", ["aa", "aaa", "aab"])
def test_every_level_comes_to_an_end(layout: str, seed: int) -> None:
    run_ranks(len(layout), mixed, seed, environment=lambda rank: {"PYPARALLEL_HOST": layout[rank]})


def fail_ahead() -> float:
    base = pyparallel.init().communicator
    ahead = ahead_of(base)
    base.barrier().wait()
    if base.rank == 1:
        ahead.abort("only what goes first")
    with pytest.raises(PeerFailedError, match="only what goes first"):
        ahead.all_reduce(torch.ones(100_000)).wait()
    total = torch.ones(100_000)
    base.all_reduce(total).wait()
    return total[-1].item()


def test_the_other_goes_on_when_it_fails() -> None:
    assert run_ranks(2, fail_ahead) == [2.0, 2.0]


def of_a_group() -> None:
    dist.init_process_group("gloo")
    group: Communicator = GroupCommunicator(dist.group.WORLD, torch.device("cpu"))  # type: ignore[arg-type]
    tensor = torch.ones(10)
    ahead_of(group).all_reduce(tensor).wait()
    assert tensor[0] == 2
    group.barrier().wait()
    dist.destroy_process_group()


def test_a_group_of_torch_gets_another_beside_it() -> None:
    run_ranks(2, of_a_group)


def test_one_rank_alone_needs_none() -> None:
    solo = SoloCommunicator(torch.device("cpu"))
    ahead = ahead_of(solo)
    assert isinstance(ahead, SoloCommunicator)
    assert ahead is not solo
