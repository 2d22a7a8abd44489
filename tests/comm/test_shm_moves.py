"""ShmCommunicator's moves: every byte arrives where it belongs, whatever dtype, size and place."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import pyparallel
from pyparallel import _tensors
from pyparallel.comm import ShmCommunicator
from ranks import run_ranks

SLOT, PIECE = 32 << 10, 256 << 10  # bytes
DTYPES = tuple(_tensors.MOVED_DTYPE_CODES)
PLACES = ("private", "shared", "mixed")


class Draw:
    """The same random choices on all ranks; places are a rank's own affair."""

    def __init__(self, c: ShmCommunicator, seed: int) -> None:
        self.c = c
        self.same = torch.Generator().manual_seed(seed)
        self.own = torch.Generator().manual_seed(seed + c.rank + 1)

    def number(self, limit: int) -> int:
        return int(torch.randint(limit, (), generator=self.same))

    def choice(self, options: Any) -> Any:
        return options[self.number(len(options))]

    def operands(self, counts: list[int], dtype: torch.dtype) -> list[Tensor]:
        """One tensor of random bits per rank."""
        return [
            torch.randint(
                256, (count * dtype.itemsize,), generator=self.same, dtype=torch.uint8
            ).view(dtype)
            for count in counts
        ]

    def shared(self, place: str) -> bool:
        if place == "mixed":
            return bool(torch.randint(2, (), generator=self.own))
        return place == "shared"

    def tensor(self, count: int, dtype: torch.dtype, place: str) -> Tensor:
        """Of sevens, at an odd place among others."""
        num_bytes = (count + 4) * dtype.itemsize
        whole = (
            self.c.empty(num_bytes, dtype=torch.uint8)
            if self.shared(place)
            else torch.empty(num_bytes, dtype=torch.uint8)
        )
        return whole.fill_(7).view(dtype)[3 : 3 + count]

    def put(self, values: Tensor, place: str) -> Tensor:
        tensor = self.tensor(values.numel(), values.dtype, place)
        raw(tensor).copy_(raw(values))
        return tensor


def raw(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


def communicator() -> ShmCommunicator:
    found = pyparallel.init().communicator
    assert isinstance(found, ShmCommunicator)
    return found


def check(actual: Tensor, expected: Tensor, *what: object) -> None:
    assert torch.equal(raw(actual), raw(expected)), what
    around = torch.empty(0, dtype=torch.uint8).set_(actual.untyped_storage())  # type: ignore[call-overload]
    size = actual.dtype.itemsize
    neighbours = torch.cat([around[: 3 * size], around[-size:]])
    assert bool((neighbours == 7).all()), ("neighbours", *what)


def counts_around(num_bytes: int, dtype: torch.dtype) -> list[int]:
    count = num_bytes // dtype.itemsize
    return [count - 1, count, count + 1]


def part_counts(dtype: torch.dtype, world_size: int) -> list[int]:
    """Around the slot and the piece, whole or in parts, and through several pieces."""
    around = [
        count
        for num_bytes in (SLOT, SLOT // world_size, PIECE, PIECE // world_size // 64 * 64)
        for count in counts_around(num_bytes, dtype)
    ]
    return [0, 1, 7, *around, 700_001 // dtype.itemsize]


def every_move(seed: int) -> None:
    c = communicator()
    draw = Draw(c, seed)
    rank, world_size = c.rank, c.world_size
    small = max(1, 5 - world_size)  # sizes to take of those that the drawn dtype has
    for place, kind in itertools.product(PLACES, range(len(DTYPES))):
        dtype = DTYPES[kind]
        sizes = part_counts(dtype, world_size)
        for count in [draw.choice(sizes) for _ in range(small)]:
            what = dtype, count, place, seed
            root = draw.number(world_size)
            parts = draw.operands([count] * world_size, dtype)
            wholes = draw.operands([count * world_size] * world_size, dtype)
            own = draw.put(parts[rank], place)

            output = draw.tensor(count * world_size, dtype, place)
            c.all_gather(output, own).wait()
            check(output, torch.cat(parts), "all_gather", *what)

            target = draw.tensor(count * world_size, dtype, place) if rank == root else None
            c.gather(target, own, root).wait()
            check(own, parts[rank], "gather leaves its input", *what)
            if target is not None:
                check(target, torch.cat(parts), "gather", *what)

            source = draw.put(wholes[root], place) if rank == root else None
            c.scatter(own, source, root).wait()
            check(own, wholes[root][rank * count :][:count], "scatter", *what)

            output = draw.tensor(count * world_size, dtype, place)
            c.all_to_all(output, draw.put(wholes[rank], place)).wait()
            expected = torch.cat([whole[rank * count :][:count] for whole in wholes])
            check(output, expected, "all_to_all", *what)

            c.broadcast(own, root).wait()
            check(own, wholes[root][root * count :][:count], "broadcast", *what)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_every_move_brings_every_byte_to_its_place(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_move, seed, timeout=120)


def unequal_parts(seed: int) -> None:
    c = communicator()
    draw = Draw(c, seed)
    rank, ranks = c.rank, range(c.world_size)
    for place, _ in itertools.product(PLACES, range(14)):
        dtype = draw.choice((torch.uint8, torch.float32, torch.complex128))
        sizes = [0, 0, 1, 5, *part_counts(dtype, c.world_size)]
        limit = draw.choice((2, 4, len(sizes)))  # nothing at all, little, or anything
        table = [[sizes[draw.number(limit)] for _ in ranks] for _ in ranks]
        wholes = draw.operands([sum(row) for row in table], dtype)
        parts = [whole.split(row) for whole, row in zip(wholes, table, strict=True)]
        expected = torch.cat([parts[other][rank] for other in ranks])
        output = draw.tensor(expected.numel(), dtype, place)
        work = c.all_to_all(
            output,
            draw.put(wholes[rank], place),
            input_sizes=table[rank],
            output_sizes=[table[other][rank] for other in ranks],
        )
        work.wait()
        check(output, expected, table, dtype, place, seed)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_parts_of_any_size_go_to_every_rank(world_size: int, seed: int) -> None:
    run_ranks(world_size, unequal_parts, seed, timeout=120)


def only_some_have_equal_parts() -> None:
    """Sizes that fit each other, with rank 0 not giving any, since its parts are equal."""
    c = communicator()
    table = ((2, 2, 2), (2, 5, 1), (2, 1, 7))
    own = table[c.rank]
    sizes = None if c.rank == 0 else own
    output, input = torch.zeros(sum(own)), torch.full((sum(own),), float(c.rank))
    c.all_to_all(output, input, input_sizes=sizes, output_sizes=sizes).wait()
    expected = torch.arange(3.0).repeat_interleave(torch.tensor(own))
    assert torch.equal(output, expected)


def test_equal_parts_of_one_rank_meet_unequal_ones_of_others() -> None:
    run_ranks(3, only_some_have_equal_parts)


def in_place(seed: int) -> None:
    c = communicator()
    draw = Draw(c, seed)
    rank, world_size = c.rank, c.world_size
    for place, count in itertools.product(PLACES, (1, 33, 20_000, 70_001)):
        what = count, place, seed
        values = torch.arange(count * world_size, dtype=torch.int16)
        whole = draw.tensor(count * world_size, torch.int16, place)
        own = whole[rank * count :][:count]
        own.copy_(values[rank * count :][:count])
        c.all_gather(whole, own).wait()
        assert torch.equal(whole, values), ("all_gather", *what)
        root = draw.number(world_size)
        own.add_(1)
        c.gather(whole if rank == root else None, own, root).wait()
        assert torch.equal(whole, values + 1) or rank != root, ("gather", *what)
        whole.copy_(values + rank)
        c.scatter(own, whole if rank == root else None, root).wait()
        assert torch.equal(own, values[rank * count :][:count] + root), ("scatter", *what)
        if rank == root:
            assert torch.equal(whole, values + root), ("scatter leaves the rest", *what)


@pytest.mark.parametrize("world_size", [2, 3])
def test_a_part_may_lie_at_its_place_in_the_whole(world_size: int, seed: int) -> None:
    run_ranks(world_size, in_place, seed)


def versions() -> None:
    """Only what was written counts as changed."""
    c = communicator()
    own, whole = torch.ones(math.prod((2, 3))), torch.ones(12)
    before = own._version, whole._version
    c.gather(whole if c.rank == 0 else None, own).wait()
    c.broadcast(own, c.world_size - 1).wait()
    after = own._version, whole._version
    assert after == (before[0] + (c.rank == 0), before[1] + (c.rank == 0))


def test_version_counters_move_with_what_is_written() -> None:
    run_ranks(2, versions)
