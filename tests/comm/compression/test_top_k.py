"""TopK: what travels is exactly the largest elements, the rest is what is owed."""

from __future__ import annotations

import pytest
import torch

from pyparallel.comm.compression import Slot, TopK
from thread_world import ThreadCommunicator, run_threads

RATIO = 0.1


def values_of(seed: int, rank: int, numel: int) -> torch.Tensor:
    return torch.randn(numel, generator=torch.Generator().manual_seed(seed + rank))


def one_step(
    communicator: ThreadCommunicator, seed: int, numel: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    flat = values_of(seed, communicator.rank, numel)
    compressor = TopK(RATIO).over(communicator)
    compressor.all_reduce(flat, slots=[Slot("p", 0, (numel,))]).wait()
    return flat, compressor.state_dict()["tensors"]["error"]["p"], communicator.sent_bytes


@pytest.mark.parametrize("numel", [1, 2, 9, 1001])
def test_the_largest_elements_travel(numel: int, seed: int) -> None:
    world_size, count = 3, max(1, int(RATIO * numel))
    expected, owed = torch.zeros(numel), []
    for rank in range(world_size):
        values = values_of(seed, rank, numel)
        kept = values.abs().argsort(descending=True)[:count]
        expected[kept] += values[kept] / world_size
        values[kept] = 0
        owed.append(values)
    outcomes = run_threads(world_size, one_step, seed, numel)
    for rank, (flat, error, sent_bytes) in enumerate(outcomes):
        torch.testing.assert_close(flat, expected)
        assert torch.equal(error, owed[rank])
        assert sent_bytes == 8 * count * (world_size - 1)


def until_all_have_gone(communicator: ThreadCommunicator) -> int:
    """With nothing new, what is owed goes out, the largest first."""
    compressor = TopK(RATIO).over(communicator)
    flat = torch.arange(1.0, 101.0)
    total = torch.zeros(100)
    for step in range(10):
        compressor.all_reduce(flat).wait()
        total += flat
        flat = torch.zeros(100)
        assert int((total > 0).sum()) == 10 * (step + 1)
        assert bool((total[100 - 10 * (step + 1) :] > 0).all())
    assert torch.equal(total, torch.arange(1.0, 101.0))
    return 10


def test_everything_arrives_in_the_end() -> None:
    assert run_threads(2, until_all_have_gone) == [10, 10]
