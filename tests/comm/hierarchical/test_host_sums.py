"""What combines over several hosts is right, the same bits on all ranks, and rounded once."""

from __future__ import annotations

import random

import pytest
import torch

import pyparallel
from host_inputs import (
    COUNTS,
    FLOATS,
    INTEGERS,
    LAYOUTS,
    assert_near,
    combine,
    draw,
    hosts,
    own_op,
)
from pyparallel.comm import HierarchicalCommunicator, Op, Premultiplied
from ranks import run_ranks

OPS: list[Op] = ["sum", "mean", "max", "min", "product", Premultiplied(0.0)]


def cases(seed: int, number: int) -> list[tuple[int, torch.dtype, Op, int]]:
    """Every op with a dtype, every dtype with an op, and random ones: the same on all ranks."""
    choose = random.Random(seed)
    drawn: list[tuple[int, torch.dtype, Op, int]] = []
    for index in range(number):
        op = OPS[index % len(OPS)]
        floats = op == "mean" or isinstance(op, Premultiplied)
        dtype = choose.choice(FLOATS if floats else FLOATS + INTEGERS)
        drawn.append((seed + index, dtype, op, choose.choice(COUNTS)))
    return drawn


def combine_all(seed: int) -> list[bytes]:
    communicator = pyparallel.init().communicator
    assert isinstance(communicator, HierarchicalCommunicator)
    rank, world = communicator.rank, communicator.world_size
    results = []
    for case in cases(seed, 18):
        number, dtype, op, count = case
        inputs = [draw(number, other, count, dtype) for other in range(world)]
        exact = combine(inputs, op)
        tensor = communicator.empty(count, dtype=dtype) if number % 2 else inputs[rank].clone()
        tensor.copy_(inputs[rank])
        version = tensor._version
        communicator.all_reduce(tensor, own_op(op, rank), background=number % 3 == 0).wait()
        assert tensor._version > version
        assert_near(tensor, exact, case)
        results.append(tensor.view(torch.uint8).numpy().tobytes())

        root = number % world
        tensor = inputs[rank].clone()
        communicator.reduce(tensor, root, own_op(op, rank)).wait()
        if rank == root:
            assert_near(tensor, exact, case)
        else:
            assert torch.equal(tensor, inputs[rank]), "only the root's tensor is written"

        inputs = [draw(number, other, count * world, dtype) for other in range(world)]
        whole = inputs[rank].clone()
        part = whole.view(world, count)[rank]
        output = part if number % 2 else torch.empty_like(part)
        communicator.reduce_scatter(output, whole, own_op(op, rank)).wait()
        assert_near(output, combine(inputs, op).view(world, count)[rank], case)
    return results


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reductions_are_right_and_the_same_bits_on_all_ranks(layout: str, seed: int) -> None:
    results = run_ranks(len(layout), combine_all, seed, environment=hosts(layout))
    assert all(result == results[0] for result in results)


def sum_of_large_halves() -> tuple[float, float, float]:
    communicator = pyparallel.init().communicator
    sign = 1.0 if communicator.rank < 2 else -1.0
    halves = torch.full((5,), sign * 60_000.0, dtype=torch.float16)
    communicator.all_reduce(halves).wait()
    mean = torch.full((5,), 60_000.0, dtype=torch.float16)
    communicator.all_reduce(mean, "mean").wait()
    # 1 + 4 * 2^-9 in bfloat16: each 2^-9 alone is lost when sums are rounded on the way.
    small = torch.tensor([1.0 if communicator.rank == 0 else 2.0**-8 / 2])
    small = small.bfloat16()
    communicator.all_reduce(small).wait()
    return halves[0].item(), mean[0].item(), small.item()


def test_sums_of_16_bit_floats_are_rounded_once_over_all_hosts() -> None:
    for results in run_ranks(4, sum_of_large_halves, environment=hosts("aabb")):
        assert results == (0.0, 60_000.0, (torch.tensor(1 + 3 * 2.0**-9).bfloat16()).item())


def leaf_in_both_modes() -> None:
    communicator = pyparallel.init().communicator
    leaf = torch.ones(7, requires_grad=True)
    communicator.all_reduce(leaf).wait()
    with torch.inference_mode():
        inference = torch.ones(7)
        communicator.all_reduce(inference).wait()
        communicator.broadcast(inference, 1).wait()
    assert leaf.tolist() == inference.tolist() == [2.0] * 7


def test_leaves_and_inference_tensors_are_reduced() -> None:
    run_ranks(2, leaf_in_both_modes, environment=hosts("ab"))
