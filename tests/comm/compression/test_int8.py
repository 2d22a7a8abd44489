"""Int8: about a quarter of the bytes; a step's error is bounded by the scales of its block."""

from __future__ import annotations

import math

import pytest
import torch

from pyparallel.comm.compression import Int8
from thread_world import ThreadCommunicator, run_threads

BLOCK = 256


def values_of(seed: int, rank: int, numel: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + rank)
    return (
        torch.randn(numel, generator=generator)
        * torch.exp(3 * torch.randn(-(-numel // BLOCK), generator=generator)).repeat_interleave(
            BLOCK
        )[:numel]
    )


def one_step(communicator: ThreadCommunicator, seed: int, numel: int) -> torch.Tensor:
    flat = values_of(seed, communicator.rank, numel)
    compressor = Int8().over(communicator)
    compressor.all_reduce(flat).wait()
    world_size = communicator.world_size
    part_blocks = math.ceil(math.ceil(numel / BLOCK) / world_size)
    assert communicator.sent_bytes == 2 * (world_size - 1) * part_blocks * (BLOCK + 4)
    if numel >= 100_000:
        assert communicator.sent_bytes < 0.257 * 2 * 4 * numel * (world_size - 1) / world_size
    return flat


# Fewer blocks than ranks, a part that is shorter, whole blocks, odd ends.
@pytest.mark.parametrize("numel", [1, 255, 256, 257, 513, 1025, 100_001])
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_step_is_as_exact_as_its_scales(numel: int, world_size: int, seed: int) -> None:
    ranks = [values_of(seed, rank, numel) for rank in range(world_size)]
    padding = torch.zeros(-numel % BLOCK)
    largest = [torch.cat([v, padding]).view(-1, BLOCK).abs().amax(1) for v in ranks]
    # Each rank's value is off by half a scale at most, and so is the mean.
    bound = sum(largest) / world_size / 127 * 0.51 * 2
    bound = bound.repeat_interleave(BLOCK)[:numel]
    mean = sum(ranks) / world_size
    for flat in run_threads(world_size, one_step, seed, numel):
        excess = ((flat - mean).abs() - bound).max()
        assert excess <= 0, f"{float(excess):g} beyond the bound"


def blocks_with_nan(communicator: ThreadCommunicator) -> list[int]:
    flat = torch.ones(5 * BLOCK)
    if communicator.rank == 1:
        flat[2 * BLOCK + 3] = torch.nan
    Int8().over(communicator).all_reduce(flat).wait()
    return flat.view(-1, BLOCK).isnan().sum(1).tolist()


def test_nan_fills_its_block_and_no_other() -> None:
    assert run_threads(2, blocks_with_nan) == [[0, 0, BLOCK, 0, 0]] * 2


def constant(communicator: ThreadCommunicator) -> torch.Tensor:
    compressor = Int8().over(communicator)
    total = torch.zeros(1000)
    for _ in range(50):
        flat = torch.linspace(-1, 1, 1000) ** 5 * (communicator.rank + 1)
        compressor.all_reduce(flat).wait()
        total += flat
    return total / 50


def test_what_rounds_to_zero_arrives_in_the_long_run() -> None:
    exact = torch.linspace(-1, 1, 1000) ** 5 * 1.5
    for average in run_threads(2, constant):
        torch.testing.assert_close(average, exact, rtol=0, atol=2e-2 * 2 / 50)
