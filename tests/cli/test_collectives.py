"""Sizes, bandwidths and exact results of the collectives, by the definitions of nccl-tests."""

import random

import pytest
import torch

from pyparallel.cli.arguments import ALL_DTYPES
from pyparallel.cli.collectives import COLLECTIVES, REDUCTIONS, Case, format_bytes

# doc/PERFORMANCE.md of nccl-tests; gather, scatter and sendrecv by their *GetBw functions.
FACTORS = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1,
    "reduce": lambda n: 1,
    "gather": lambda n: (n - 1) / n,
    "scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "send_recv": lambda n: 1,
}


def test_every_collective_has_a_definition():
    assert set(FACTORS) == set(COLLECTIVES)


@pytest.mark.parametrize("name", COLLECTIVES)
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_bandwidths_are_those_of_the_larger_buffer(name, world_size):
    case = Case.of_bytes(name, 24 << 20, torch.float32, "sum", world_size)
    assert case.num_bytes == 24 << 20
    assert max(case.send_numel, case.receive_numel) == case.numel == 6 << 20
    assert case.algbw(0.5) == 48 << 20
    assert case.busbw(0.5) == pytest.approx((48 << 20) * FACTORS[name](world_size))


@pytest.mark.parametrize("name", COLLECTIVES)
def test_parts_are_equal_and_not_empty_whatever_is_asked_for(name, seed):
    for world_size in (2, 3, 7):
        for num_bytes in (1, 7, random.Random(seed).randrange(1, 1 << 20)):
            case = Case.of_bytes(name, num_bytes, torch.float64, "sum", world_size)
            assert min(case.send_numel, case.receive_numel) >= 1
            smaller = min(case.send_numel, case.receive_numel)
            in_parts = case.send_numel != case.receive_numel
            assert case.numel == smaller * (world_size if in_parts else 1)
            assert case.num_bytes <= max(num_bytes, 8 * world_size)


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("dtype", ALL_DTYPES.values(), ids=str)
def test_results_are_exact_and_not_trivial_in_every_dtype(op, dtype, seed):
    if op == "mean" and not dtype.is_floating_point:
        return
    for world_size in (2, 3, 4, 8):
        case = Case.of_bytes("all_reduce", 8000, dtype, op, world_size)
        operands = [case.operand(rank, seed=seed) for rank in range(world_size)]
        wide = torch.stack(operands).double()
        exact = {
            "sum": wide.sum(0),
            "mean": wide.mean(0),
            "max": wide.amax(0),
            "min": wide.amin(0),
            "product": wide.prod(0),
        }[op]
        for rank in (0, world_size - 1):
            assert torch.equal(case.expected(rank, seed=seed).double(), exact)
        assert exact.unique().numel() > 2
        assert not torch.equal(operands[0], operands[1])
        assert torch.equal(operands[0], case.operand(0, seed=seed))


def verification(*, fault, numel=1000):
    """Rank 0 of three, whose peers are imagined."""
    case = Case.of_bytes("all_reduce", 4 * numel, torch.float32, "sum", 3)
    tensor = torch.empty(numel)
    seed = 5

    def run():
        for rank in (1, 2):
            tensor.add_(case.operand(rank, seed=seed))
        if fault is not None:
            tensor[fault] += 1

    case.verify("this way", run, tensor, tensor, rank=0, seed=seed)


@pytest.mark.parametrize("numel", [1, 1000])
def test_the_right_sum_passes(numel):
    verification(fault=None, numel=numel)


@pytest.mark.parametrize("fault", [0, 531, 999])
def test_a_wrong_element_of_a_sum_is_found_and_named(fault):
    with pytest.raises(AssertionError, match=f"1 of 1000 elements are wrong; element {fault} is"):
        verification(fault=fault)


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (1 << 10, "1 KiB"),
        (25 << 20, "25 MiB"),
        (1000, "1000 B"),
        (3 << 30, "3 GiB"),
        (25 << 19, "12.5 MiB"),
    ],
)
def test_sizes_are_said_in_binary_units(num_bytes, text):
    assert format_bytes(num_bytes) == text
