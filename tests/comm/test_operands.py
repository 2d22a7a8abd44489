"""Operands as they come: slices of other tensors, in place, with pending negations, of bytes."""

from __future__ import annotations

import itertools

import pytest
import torch

import pyparallel
from ranks import run_ranks

COUNTS = (1, 33, 20_000, 70_001)  # floats: in a slot, through one piece, through several
FLOATS = (torch.float32, torch.bfloat16, torch.float64)


def slice_of(count: int, dtype: torch.dtype, *, shared: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """An unaligned slice of sevens, and the whole around it."""
    communicator = pyparallel.init().communicator
    whole = (
        communicator.empty(count + 8, dtype=dtype) if shared else torch.empty(count + 8).to(dtype)
    )
    return whole.fill_(7)[3 : 3 + count], whole


def slices() -> None:
    c = pyparallel.init().communicator
    total = float(sum(range(1, c.world_size + 1)))
    for dtype, count, mode in itertools.product(FLOATS, COUNTS, ("private", "shared", "mixed")):
        shared = mode == "shared" or (mode == "mixed" and c.rank % 2 == 0)
        part, whole = slice_of(count, dtype, shared=shared)
        part.fill_(c.rank + 1)
        c.all_reduce(part).wait()
        assert bool((part == total).all()), (dtype, count, mode)
        part.fill_(c.rank)
        c.broadcast(part, c.world_size - 1).wait()
        assert bool((part == c.world_size - 1).all()), (dtype, count, mode)
        assert whole[:3].tolist() == [7] * 3
        assert whole[3 + count :].tolist() == [7] * 5


@pytest.mark.parametrize("world_size", [2, 3])
def test_slices_are_reduced_and_their_neighbours_are_not(world_size: int) -> None:
    run_ranks(world_size, slices)


def in_place() -> None:
    c = pyparallel.init().communicator
    rank, world_size = c.rank, c.world_size
    for dtype, count, shared in itertools.product(FLOATS, COUNTS, (False, True)):
        whole, _ = slice_of(count * world_size, dtype, shared=shared)
        own = whole[rank * count : (rank + 1) * count]
        own.fill_(rank + 1)
        c.all_gather(whole, own).wait()
        expected = torch.arange(1, world_size + 1, dtype=dtype).repeat_interleave(count)
        assert torch.equal(whole, expected), (dtype, count, shared, "all_gather")
        whole.mul_(rank + 1)
        c.reduce_scatter(own, whole).wait()
        factor = world_size * (world_size + 1) // 2
        assert bool((own == factor * (rank + 1)).all()), (dtype, count, shared, "reduce_scatter")


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_own_part_may_lie_in_the_whole(world_size: int) -> None:
    run_ranks(world_size, in_place)


def bytes_wrap() -> None:
    c = pyparallel.init().communicator
    for count in (5, 300_000):
        tensor = torch.full((count,), 200, dtype=torch.uint8)
        c.all_reduce(tensor).wait()
        assert bool((tensor == 400 % 256).all())
        tensor.fill_(c.rank)
        c.all_reduce(tensor, "max").wait()
        assert bool((tensor == 1).all())
        whole = torch.zeros(2 * count, dtype=torch.uint8)
        c.all_gather(whole, torch.full((count,), c.rank, dtype=torch.uint8)).wait()
        assert whole.sum().item() == count
    with pytest.raises(ValueError, match=r"mean of torch\.uint8"):
        c.all_reduce(torch.zeros(2, dtype=torch.uint8), "mean")


def test_bytes_are_integers_too() -> None:
    run_ranks(2, bytes_wrap)


def pending_negations() -> None:
    """What such a tensor shows is minus what lies in memory."""
    c = pyparallel.init().communicator
    tensor = torch._neg_view(torch.full((3,), c.rank + 1.0))
    for call in (c.all_reduce, c.broadcast):
        with pytest.raises(ValueError, match="negation"):
            call(tensor)
    c.all_reduce(tensor.resolve_neg(), "max").wait()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_pending_negation_is_refused(world_size: int) -> None:
    run_ranks(world_size, pending_negations)


def random_jobs(seed: int) -> None:
    """The same random sequence of operations on all ranks, waited for late and in any order."""
    c = pyparallel.init().communicator
    same = torch.Generator().manual_seed(seed)
    own = torch.Generator().manual_seed(seed + c.rank + 1)

    def draw(limit: int, generator: torch.Generator = same) -> int:
        return int(torch.randint(limit, (), generator=generator))

    flying: list[tuple[object, torch.Tensor, float]] = []
    for _ in range(150):
        count = (1, 100, 9_000, 70_000, 200_001)[draw(5)]
        kind, root = draw(3), draw(c.world_size)
        value = draw(50)
        shared = draw(2, own) == 1
        part, _ = slice_of(count, torch.float32, shared=shared)
        part.fill_(value + c.rank)
        background = draw(2, own) == 1
        if kind == 0:
            work = c.all_reduce(part, "max", background=background)
            flying.append((work, part, value + c.world_size - 1))
        elif kind == 1:
            work = c.broadcast(part, root, background=background)
            flying.append((work, part, value + root))
        else:
            work = c.all_reduce(part, "min", background=background)
            flying.append((work, part, value))
        while flying and draw(3, own) == 0:
            check(flying.pop(draw(len(flying), own)))
    while flying:
        check(flying.pop(draw(len(flying), own)))


def check(flight: tuple[object, torch.Tensor, float]) -> None:
    work, tensor, expected = flight
    work.wait()  # type: ignore[attr-defined]
    assert bool((tensor == expected).all()), (tensor[0].item(), expected)


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_sequence_of_operations_is_right(world_size: int, seed: int) -> None:
    run_ranks(world_size, random_jobs, seed)
