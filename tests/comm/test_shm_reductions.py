"""ShmCommunicator's reductions equal slow, obvious references bit for bit, direct and in a ring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyparallel
from pyparallel.comm import Op, Premultiplied, ShmCommunicator
from ranks import run_ranks

SLOT, PIECE, LINE = 32 << 10, 256 << 10, 64  # bytes
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
PLACES = ("private", "shared", "mixed")
FACTORS = (0.5, -1.25, 3.0, 0.1, 1e-3)  # by rank
PAIRS = {
    "sum": torch.add,
    "mean": torch.add,
    "premultiplied": torch.add,
    "max": torch.maximum,
    "min": torch.minimum,
    "product": torch.mul,
}


def ops_of(dtype: torch.dtype) -> tuple[str, ...]:
    whole = ("sum", "max", "min", "product")
    return (*whole, "mean", "premultiplied") if dtype.is_floating_point else whole


def op_of(name: Any, rank: int) -> Op:
    return Premultiplied(FACTORS[rank]) if name == "premultiplied" else name


def accumulated(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def direct(parts: list[Tensor], name: str, order: list[int], *, rounded: bool = False) -> Tensor:
    """Accumulates in the given order of ranks; `rounded` to the dtype after each addition."""
    dtype = parts[0].dtype
    wide = accumulated(dtype)

    def term(rank: int) -> Tensor:
        values = parts[rank].to(wide)
        if name != "premultiplied":
            return values
        return values * torch.tensor(FACTORS[rank], dtype=wide)

    total = term(order[0])
    for place, rank in enumerate(order[1:], start=2):
        if rounded:
            total = total.to(dtype).to(wide)
        total = PAIRS[name](total, term(rank))
        if name == "mean" and place == len(order):
            total = total * (1 / torch.tensor(len(order), dtype=wide))
    return total.to(dtype)


def ring_order(part: int, world_size: int) -> list[int]:
    return [(part + 1 + step) % world_size for step in range(world_size)]


def ring(parts: list[Tensor], name: str) -> Tensor:
    """Part c of the tensor, in whole cache lines, goes through ranks c + 1, c + 2, ..., c."""
    world_size, count = len(parts), parts[0].numel()
    per_line = LINE // parts[0].dtype.itemsize
    length = count // per_line // world_size * per_line
    ends = [length * (part + 1) for part in range(world_size - 1)] + [count]
    result = torch.empty_like(parts[0])
    for part, end in enumerate(ends):
        cut = slice(length * part, end)
        own = [tensor[cut] for tensor in parts]
        result[cut] = direct(own, name, ring_order(part, world_size), rounded=True)
    return result


def bits(tensor: Tensor) -> Tensor:
    """Comparable: all NaN alike, and no sign on a zero, which max and min may take of either."""
    if not tensor.dtype.is_floating_point:
        return tensor
    return torch.where(tensor.isnan(), torch.zeros_like(tensor), tensor + 0).view(torch.uint8)


def check(actual: Tensor, expected: Tensor, *what: object) -> None:
    if actual.dtype.is_floating_point:
        assert torch.equal(actual.isnan(), expected.isnan()), what
    if not torch.equal(bits(actual), bits(expected)):
        place = int((bits(actual) != bits(expected)).nonzero()[0])
        place //= actual.dtype.itemsize if actual.dtype.is_floating_point else 1
        raise AssertionError(f"{what} at {place}: {actual[place]}, expected {expected[place]}")


class Job:
    """The same random choices on all ranks; places are a rank's own affair."""

    def __init__(self, seed: int) -> None:
        found = pyparallel.init().communicator
        assert isinstance(found, ShmCommunicator)
        self.c = found
        self.same = torch.Generator().manual_seed(seed)
        self.own = torch.Generator().manual_seed(seed + found.rank + 1)

    def number(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.same))

    def operands(self, count: int, dtype: torch.dtype) -> list[Tensor]:
        """One tensor per rank: every integer, or floats of all sizes with infinities and NaN.

        Values repeat after a prime number of elements, so that no two places are mixed up unseen.
        """
        if dtype.is_floating_point:
            values = torch.randn(10_007, generator=self.same, dtype=torch.float64)
            values *= 10.0 ** torch.randint(-7, 3, values.shape, generator=self.same)
            special = torch.tensor([float("inf"), float("nan"), 0.0, -0.0, 3e38])
            where = torch.randint(10_007, (20,), generator=self.same)
            values[where] = special.double().repeat(4)
        else:
            values = torch.randint(-(1 << 62), 1 << 62, (10_007,), generator=self.same)
        turns = [self.number(10_007) for _ in range(self.c.world_size)]
        repeated = values.to(dtype).repeat(count // 10_007 + 2)
        return [repeated[turn : turn + count] for turn in turns]

    def put(self, values: Tensor, place: str) -> Tensor:
        shared = place == "shared" or (
            place == "mixed" and bool(torch.randint(2, (), generator=self.own))
        )
        count, dtype = values.numel(), values.dtype
        whole = (self.c.empty if shared else torch.zeros)(count + 3, dtype=dtype)
        return whole[3:].copy_(values)

    def places(self) -> list[str]:
        """Each place twice, in a random order."""
        order = torch.randperm(6, generator=self.same).tolist()
        return [PLACES[index % 3] for index in order]

    def sizes(self, dtype: torch.dtype) -> list[int]:
        """Nothing, little, something around the slot, around the piece, and more."""
        item, ranks = dtype.itemsize, self.c.world_size
        around = [SLOT, SLOT // ranks, PIECE, PIECE * ranks, PIECE // ranks, 2 * PIECE]
        count = around[self.number(len(around))] // item + self.number(3) - 1
        return [(0, 1, 2, 7, 15, 33, 129)[self.number(7)], count]


def every_reduction(seed: int) -> None:
    job = Job(seed)
    c, order = job.c, list(range(job.c.world_size))
    for dtype in (*FLOATS, *INTEGERS):
        for name, place in zip(ops_of(dtype), job.places(), strict=False):
            for count in job.sizes(dtype):
                what = dtype, place, name, count, seed
                op, root = op_of(name, c.rank), job.number(c.world_size)
                parts = job.operands(count, dtype)
                expected = direct(parts, name, order)

                tensor = job.put(parts[c.rank], place)
                c.all_reduce(tensor, op).wait()
                check(tensor, expected, "all_reduce", *what)

                tensor = job.put(parts[c.rank], place)
                c.reduce(tensor, root, op).wait()
                own = expected if c.rank == root else parts[c.rank]
                check(tensor, own, "reduce", *what)

                length = count // c.world_size
                cut = slice(c.rank * length, (c.rank + 1) * length)
                output = job.put(torch.zeros(length, dtype=dtype), place)
                input = job.put(parts[c.rank][: length * c.world_size], place)
                c.reduce_scatter(output, input, op).wait()
                check(output, expected[cut], "reduce_scatter", *what)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_reduction_of_every_dtype_equals_its_definition(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_reduction, seed, timeout=120)


def every_ring(seed: int) -> None:
    job = Job(seed)
    c = job.c
    for dtype in (*FLOATS, torch.int32, torch.int8):
        for name, place in zip(ops_of(dtype), job.places(), strict=False):
            for count in job.sizes(dtype):
                what = dtype, place, name, count, seed
                op = op_of(name, c.rank)
                parts = job.operands(count, dtype)
                tensor = job.put(parts[c.rank], place)
                c.all_reduce(tensor, op, algorithm="ring").wait()
                check(tensor, ring(parts, name), "ring", *what)

                length = count // c.world_size
                cut = slice(c.rank * length, (c.rank + 1) * length)
                input = job.put(parts[c.rank][: length * c.world_size], place)
                c.reduce_scatter(input[cut], input, op, algorithm="ring").wait()
                own = [part[cut] for part in parts]
                expected = direct(own, name, ring_order(c.rank, c.world_size), rounded=True)
                check(input[cut], expected, "reduce_scatter", *what)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_the_ring_equals_a_slow_one(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_ring, seed, timeout=120)


def times() -> None:
    c = pyparallel.init().communicator
    work = c.all_reduce(torch.ones(100_000), background=False)
    assert (work.started_ns, work.ended_ns) == (0, 0) or c.rank == 1
    c.barrier().wait()  # which runs what was issued before
    assert work.is_completed()
    assert 0 < work.started_ns <= work.ended_ns


def test_works_know_when_they_ran() -> None:
    run_ranks(2, times)
