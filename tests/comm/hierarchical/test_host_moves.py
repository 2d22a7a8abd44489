"""What only moves over several hosts arrives in the order of ranks, whatever their hosts."""

from __future__ import annotations

import random

import pytest
import torch

import pyparallel
from host_inputs import COUNTS, FLOATS, INTEGERS, LAYOUTS, draw, hosts
from ranks import run_ranks

DTYPES = [*FLOATS, *INTEGERS, torch.bool, torch.int16, torch.complex64]


def cases(seed: int, number: int) -> list[tuple[int, torch.dtype, int]]:
    choose = random.Random(seed)
    return [(seed + i, choose.choice(DTYPES), choose.choice(COUNTS)) for i in range(number)]


def move(seed: int) -> None:
    communicator = pyparallel.init().communicator
    rank, world = communicator.rank, communicator.world_size
    for case in cases(seed, 12):
        number, dtype, count = case
        root = number % world
        inputs = [draw(number, other, count, dtype) for other in range(world)]
        whole = torch.cat(inputs)

        gathered = torch.zeros(world * count).to(dtype)
        own = (
            gathered[rank * count : (rank + 1) * count]
            if number % 2
            else torch.empty_like(inputs[0])
        )
        own.copy_(inputs[rank])
        communicator.all_gather(gathered, own).wait()
        assert torch.equal(gathered, whole), ("all_gather", case)

        tensor = inputs[rank].clone()
        communicator.broadcast(tensor, root).wait()
        assert torch.equal(tensor, inputs[root]), ("broadcast", case)

        output = torch.zeros(world * count).to(dtype) if rank == root else None
        communicator.gather(output, inputs[rank], root).wait()
        assert output is None or torch.equal(output, whole), ("gather", case)

        part = torch.zeros(count).to(dtype)
        communicator.scatter(part, whole if rank == root else None, root).wait()
        assert torch.equal(part, inputs[rank]), ("scatter", case)
        communicator.barrier().wait()
    exchange(seed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_part_arrives_in_its_place(layout: str, seed: int) -> None:
    run_ranks(len(layout), move, seed, environment=hosts(layout))


def exchange(seed: int) -> None:
    """all_to_all, with sizes of every kind and with equal ones."""
    communicator = pyparallel.init().communicator
    rank, world = communicator.rank, communicator.world_size
    choose = random.Random(seed)
    for _ in range(6):
        dtype = choose.choice(DTYPES)
        sizes = [[choose.choice([0, 1, 5, 2000]) for _ in range(world)] for _ in range(world)]
        sent = [list(draw(seed, r, sum(sizes[r]), dtype).split(sizes[r])) for r in range(world)]
        received = [sizes[other][rank] for other in range(world)]
        output = torch.zeros(sum(received)).to(dtype)
        communicator.all_to_all(
            output, torch.cat(sent[rank]), output_sizes=received, input_sizes=sizes[rank]
        ).wait()
        assert torch.equal(output, torch.cat([sent[other][rank] for other in range(world)]))

        equal = draw(seed, rank, 3 * world, dtype)
        output = torch.empty_like(equal)
        communicator.all_to_all(output, equal).wait()
        parts = [draw(seed, other, 3 * world, dtype).view(world, 3)[rank] for other in range(world)]
        assert torch.equal(output, torch.cat(parts))


def in_flight_together() -> None:
    """Many operations are issued before any is waited for, and waited for in another order."""
    communicator = pyparallel.init().communicator
    rank, world = communicator.rank, communicator.world_size
    tensors = [torch.full((n,), float(rank + n)) for n in range(1, 40)]
    works = [communicator.all_reduce(tensor) for tensor in tensors]
    for n, work, tensor in reversed(list(zip(range(1, 40), works, tensors, strict=True))):
        work.wait()
        assert work.is_completed()
        assert work.exception() is None
        assert 0 < work.started_ns <= work.ended_ns
        assert torch.equal(tensor, torch.full((n,), float(sum(range(world)) + n * world)))


def test_operations_in_flight_keep_their_order() -> None:
    run_ranks(3, in_flight_together, environment=hosts("aba"))
