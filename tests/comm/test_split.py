"""Parts of a communicator: the right members, in order, independent, gone when closed."""

from __future__ import annotations

import gc
import os
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import pyparallel
from pyparallel.comm import Communicator, GroupCommunicator, SoloCommunicator
from pyparallel.errors import PeerFailedError, PeerLostError
from ranks import run_ranks


def members(part: Communicator, rank: int) -> list[int]:
    """The ranks of the parent, in the part's order."""
    output = torch.empty(part.world_size, dtype=torch.int64)
    part.all_gather(output, torch.tensor([rank])).wait()
    return output.tolist()


def split_at_random(seed: int) -> None:
    c = pyparallel.init().communicator
    choose = random.Random(seed)
    for _ in range(4):
        colors = [choose.choice([None, -3, 0, 0, 7]) for _ in range(c.world_size)]
        keys = [choose.randrange(-2, 3) for _ in range(c.world_size)]
        part = c.split(colors[c.rank], keys[c.rank])
        color = colors[c.rank]
        if color is None:
            assert part is None
            continue
        same = [rank for rank in range(c.world_size) if colors[rank] == color]
        expected = sorted(same, key=lambda rank: (keys[rank], rank))
        assert part is not None
        assert (part.rank, part.world_size) == (expected.index(c.rank), len(expected))
        assert isinstance(part, SoloCommunicator) == (len(expected) == 1)
        assert members(part, c.rank) == expected
        if len(expected) > 1:  # messages count ranks of the part
            left, right = (part.rank - 1) % len(expected), (part.rank + 1) % len(expected)
            got = torch.zeros(3)
            work = part.recv(got, left)
            part.send(torch.full((3,), float(c.rank)), right).wait()
            work.wait()
            assert got[0].item() == expected[left]
        part.close()
    c.barrier().wait()


def test_colors_and_keys_decide(seed: int) -> None:
    run_ranks(5, split_at_random, seed)


def fail_alone() -> tuple[str, float]:
    c = pyparallel.init().communicator
    part = c.split(c.rank % 2)
    assert part is not None
    again = part.split(0, -part.rank)
    assert again is not None
    assert members(again, c.rank) == [c.rank % 2 + 2, c.rank % 2]
    if c.rank == 0:
        part.abort("only this part")
    if c.rank == 1:
        part.close()
    try:
        part.barrier().wait()
        text = "went on"
    except (PeerFailedError, PeerLostError, ValueError) as error:
        text = type(error).__name__
    total = torch.ones(1)
    again.all_reduce(total).wait()
    c.all_reduce(total).wait()
    return text, total.item()


def test_parts_fail_and_close_on_their_own() -> None:
    texts, totals = zip(*run_ranks(4, fail_alone), strict=True)
    assert texts == ("PeerFailedError", "ValueError", "PeerFailedError", "PeerLostError")
    assert totals == (8.0,) * 4


def held() -> tuple[int, int, int]:
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count("/memfd:pyparallel")
    tasks = len(os.listdir("/proc/self/task"))
    return len(os.listdir("/proc/self/fd")), maps, tasks


def split_and_close() -> list[tuple[int, int, int]]:
    c = pyparallel.init().communicator
    counts = []
    for turn in range(20):
        part = c.split(0, c.rank)
        assert part is not None
        shared = part.empty(1000)
        part.all_reduce(shared).wait()
        other = 1 - c.rank
        works = [part.recv(torch.empty(200_000), other), part.send(torch.ones(200_000), other)]
        for work in works:
            work.wait()
        part.close()
        del part, shared, works, work
        if turn in (1, 19):
            c.barrier().wait()
            counts.append(held())
    return counts


def test_splitting_twenty_times_leaves_nothing_behind() -> None:
    for early, late in run_ranks(2, split_and_close):
        assert late == early


def refusals() -> None:
    c = pyparallel.init().communicator
    with pytest.raises(TypeError, match="color is 'red'"):
        c.split("red")  # type: ignore[arg-type]


def test_a_color_that_is_no_number_is_refused() -> None:
    run_ranks(1, refusals_alone)
    run_ranks(2, refusals_together)


def refusals_together() -> None:
    refusals()


def refusals_alone() -> None:
    solo = SoloCommunicator(torch.device("cpu"))
    part = solo.split(4)
    assert isinstance(part, SoloCommunicator)
    assert solo.split(None) is None
    part.abort("enough")
    with pytest.raises(PeerFailedError):
        part.split(0)
    solo.barrier().wait()


def split_gloo() -> None:
    dist.init_process_group("gloo")
    group = GroupCommunicator(dist.group.WORLD, torch.device("cpu"))  # type: ignore[arg-type]
    part = group.split(0 if group.rank < 2 else 9, -group.rank)
    assert part is not None
    assert isinstance(part, GroupCommunicator) == (group.rank < 2)
    assert members(part, group.rank) == ([1, 0] if group.rank < 2 else [2])
    assert group.split(None) is None
    part.close()
    group.barrier().wait()
    dist.destroy_process_group()


def test_groups_of_torch_are_split_by_torch() -> None:
    run_ranks(3, split_gloo)
