"""PowerSGD: exact where the mean has the rank, orthonormal bases, the bytes of the factors."""

from __future__ import annotations

import pytest
import torch

from pyparallel.comm.compression import PowerSGD, Slot
from pyparallel.comm.compression.power_sgd import _basis
from thread_world import ThreadCommunicator, run_threads

N, M = 60, 45


def low_rank(seed: int, rank: int, of: int) -> torch.Tensor:
    """The ranks' gradients differ, their mean has rank `of`."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(N, of, generator=generator) @ torch.randn(of, M, generator=generator)
    noise = torch.randn(N, M, generator=generator)
    return mean + (noise if rank == 0 else -noise)


def one_step(communicator: ThreadCommunicator, seed: int, of: int) -> torch.Tensor:
    flat = low_rank(seed, communicator.rank, of).flatten()
    PowerSGD(3).over(communicator).all_reduce(flat, slots=[Slot("p", 0, (N, M))]).wait()
    return flat.view(N, M)


@pytest.mark.parametrize("of", [1, 2, 3])
def test_a_mean_of_that_rank_is_exact_at_once(of: int, seed: int) -> None:
    mean = (low_rank(seed, 0, of) + low_rank(seed, 1, of)) / 2
    for result in run_threads(2, one_step, seed, of):
        torch.testing.assert_close(
            result, mean, rtol=0, atol=2e-2
        )  # of a few: P may be near rank 2
        assert torch.linalg.matrix_rank(result) <= 3


def bytes_of(communicator: ThreadCommunicator) -> list[str]:
    """A matrix that is worth it, two that are not, a vector, a scalar, a convolution, nothing."""
    shapes = [(N, M), (6, 7), (12,), (1, 300), (), (8, 4, 3, 3), (0, 5)]
    slots, offset = [], 0
    for index, shape in enumerate(shapes):
        slots.append(Slot(f"p{index}", offset, shape))
        offset = slots[-1].end
    compressor = PowerSGD(4).over(communicator)
    flat = torch.randn(offset)
    compressor.all_reduce(flat, slots=slots).wait()
    kinds = compressor.state_dict()["tensors"]
    assert set(kinds["q"]) == set(kinds["error"]) == {"p0", "p5"}
    assert kinds["q"]["p5"].shape == (36, 4)
    return communicator.issued


def test_factors_travel_and_what_is_not_worth_it_as_it_is() -> None:
    p, q = 4 * (N + 8), 4 * (M + 36)
    rest = 6 * 7 + 12 + 300 + 1
    for issued in run_threads(2, bytes_of):
        assert issued == [
            f"all_reduce mean of {p + rest} torch.float32",
            f"all_reduce mean of {q} torch.float32",
        ]


def vectors(communicator: ThreadCommunicator) -> list[str]:
    flat = torch.full((100,), float(communicator.rank))
    compressor = PowerSGD(4).over(communicator)
    compressor.all_reduce(flat, slots=[Slot("p", 0, (100,))]).wait()
    assert bool((flat == 0.5).all())
    return communicator.issued


def test_a_bucket_without_matrices_is_one_all_reduce() -> None:
    assert run_threads(2, vectors)[0] == ["all_reduce mean of 100 torch.float32"]


def started_late(communicator: ThreadCommunicator, seed: int) -> list[bool]:
    compressor = PowerSGD(1, start_step=3).over(communicator)
    exact = []
    for step in range(5):
        ranks = [
            torch.randn(N * M, generator=torch.Generator().manual_seed(seed + 10 * step + rank))
            for rank in range(2)
        ]
        flat = ranks[communicator.rank]
        mean = (ranks[0] + ranks[1]) / 2
        compressor.all_reduce(flat, slots=[Slot("p", 0, (N, M))]).wait()
        exact.append(torch.allclose(flat, mean))
    return exact


def test_it_starts_at_its_step(seed: int) -> None:
    assert run_threads(2, started_late, seed) == [[True, True, True, False, False]] * 2


def awakened(communicator: ThreadCommunicator, seed: int) -> float:
    """A gradient of zeros for some steps (a frozen part, say) must not stop the later ones."""
    compressor = PowerSGD(2).over(communicator)
    slots = [Slot("p", 0, (N, M))]
    for _ in range(3):
        compressor.all_reduce(torch.zeros(N * M), slots=slots).wait()
    gradient = low_rank(seed, 0, 2).flatten()
    total = torch.zeros(N * M)
    for _ in range(30):
        flat = gradient.clone()
        compressor.all_reduce(flat, slots=slots).wait()
        total += flat
    return float((total / 30 - gradient).norm() / gradient.norm())


def test_zeros_do_not_stop_it_for_ever(seed: int) -> None:
    assert max(run_threads(2, awakened, seed)) < 0.5


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_bases_are_orthonormal_and_span_what_is_there(scale: float) -> None:
    p = torch.randn(50, 4) * scale
    p[:, 2] = p[:, 1] * 2  # dependent
    p[:, 3] = 0
    basis, finite = _basis(p)
    assert bool(finite)
    torch.testing.assert_close(basis.t() @ basis, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis @ (basis.t() @ p) / scale, p / scale, rtol=0, atol=1e-4)


def test_without_slots_it_is_refused() -> None:
    def without(communicator: ThreadCommunicator) -> None:
        with pytest.raises(ValueError, match="bucket 2 came without the slots"):
            PowerSGD().over(communicator).all_reduce(torch.ones(9), bucket=2)

    run_threads(1, without)
