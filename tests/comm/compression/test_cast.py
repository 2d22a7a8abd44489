"""FP16 and BF16: each rank's value is rounded once, the mean once more; half the bytes."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pyparallel.comm import GroupCommunicator
from pyparallel.comm.compression import BF16, FP16, Scheme
from ranks import run_ranks
from thread_world import ThreadCommunicator, run_threads

WIRES = ((FP16(), torch.float16), (BF16(), torch.bfloat16))
each_wire = pytest.mark.parametrize(("scheme", "wire"), WIRES, ids=["fp16", "bf16"])


def values_of(seed: int, rank: int, numel: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + rank)
    return torch.randn(numel, generator=generator) * 100


def expected(seed: int, world_size: int, numel: int, wire: torch.dtype) -> torch.Tensor:
    total = torch.zeros(numel)
    for rank in range(world_size):
        total += values_of(seed, rank, numel).to(wire).float()
    return (total / world_size).to(wire).float()


def mean(communicator: ThreadCommunicator, scheme: Scheme, seed: int, numel: int) -> torch.Tensor:
    flat = values_of(seed, communicator.rank, numel)
    scheme.over(communicator).all_reduce(flat).wait()
    world_size = communicator.world_size
    assert communicator.sent_bytes == pytest.approx(2 * 2 * numel * (world_size - 1) / world_size)
    return flat


@each_wire
@pytest.mark.parametrize("numel", [1, 7, 1000])
def test_values_are_rounded_twice_and_travel_in_two_bytes(
    scheme: Scheme, wire: torch.dtype, numel: int, seed: int
) -> None:
    for flat in run_threads(3, mean, scheme, seed, numel):
        torch.testing.assert_close(flat, expected(seed, 3, numel, wire), rtol=0, atol=0)


class Counting(GroupCommunicator):
    """Counts the bytes that leave this rank."""

    sent_bytes = 0

    def all_to_all(self, output, input, **options):
        self.sent_bytes += input.nbytes // self.world_size * (self.world_size - 1)
        return super().all_to_all(output, input, **options)

    def all_gather(self, output, input, **options):
        self.sent_bytes += input.nbytes * (self.world_size - 1)
        return super().all_gather(output, input, **options)

    def all_reduce(self, tensor, op="sum", **options):
        raise AssertionError("sums of 16-bit floats travel as float32 there")


def over_gloo(seed: int) -> None:
    dist.init_process_group("gloo")
    assert dist.group.WORLD is not None
    for numel in (1, 2, 7, 10_001):
        for scheme, wire in WIRES:
            communicator = Counting(dist.group.WORLD, torch.device("cpu"))
            compressor = scheme.over(communicator)
            for turn in range(2):  # the second time with buffers that have been used
                flat = values_of(seed + turn, communicator.rank, numel)
                compressor.all_reduce(flat).wait()
                torch.testing.assert_close(
                    flat, expected(seed + turn, 3, numel, wire), rtol=0, atol=0
                )
            assert communicator.sent_bytes == 2 * 2 * 2 * 2 * -(-numel // 3)


def test_over_groups_that_widen_sums_the_ranks_add_up_by_themselves(seed: int) -> None:
    run_ranks(3, over_gloo, seed)


def large(communicator: ThreadCommunicator) -> list[float]:
    rank = communicator.rank
    flat = torch.tensor([60_000.0, 65_504.0, 70_000.0 if rank == 1 else 1.0, -1e9, 1e-3])
    FP16().over(communicator).all_reduce(flat).wait()
    return flat.tolist()


def test_only_values_beyond_float16_overflow_not_their_sum() -> None:
    for flat in run_threads(3, large):
        assert flat[:4] == [60_000.0, 65_504.0, float("inf"), float("-inf")]
        assert flat[4] == pytest.approx(1e-3, rel=1e-3)


@each_wire
def test_gradients_of_16_bits_travel_as_they_are(scheme: Scheme, wire: torch.dtype) -> None:
    def half(communicator: ThreadCommunicator) -> list[str]:
        for dtype in (torch.float16, torch.bfloat16):
            scheme.over(communicator).all_reduce(torch.ones(10, dtype=dtype)).wait()
        return communicator.issued

    assert run_threads(2, half)[0] == [
        "all_reduce mean of 10 torch.float16",
        "all_reduce mean of 10 torch.bfloat16",
    ]
