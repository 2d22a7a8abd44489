"""Ranks with different models are told the first difference; equal ones get rank 0's values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyparallel
from pyparallel import DataParallel
from pyparallel.data_parallel.verify import broadcast_tensors
from ranks import errors_of_ranks, run_ranks


def wrap(kind: str) -> None:
    odd = pyparallel.init().rank == 1
    models = {
        "shape": lambda: nn.Linear(3, 5 if odd else 4),
        "dtype": lambda: nn.Linear(3, 4, dtype=torch.float64 if odd else torch.float32),
        "name": lambda: (
            nn.Sequential(nn.Identity(), nn.Linear(3, 4)) if odd else nn.Sequential(nn.Linear(3, 4))
        ),
        "missing": lambda: nn.Linear(3, 4, bias=not odd),
        "order": lambda: nn.Conv2d(3, 4, 3).to(
            memory_format=torch.channels_last if odd else torch.contiguous_format
        ),
        "frozen": lambda: nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3).requires_grad_(not odd)),
        "buffer": lambda: nn.BatchNorm1d(3, track_running_stats=not odd),
    }
    DataParallel(models[kind]())


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("shape", ("'weight'", "(4, 3) on rank 0", "(5, 3) on rank 1")),
        ("dtype", ("'weight'", "torch.float32 (4, 3) on rank 0", "torch.float64 (4, 3) on rank 1")),
        ("name", ("'0.weight'", "'1.weight'")),
        ("missing", ("'bias'", "rank 0", "missing on rank 1")),
        ("order", ("'weight'", "(4, 3, 3, 3) on rank 0", "strides (27, 1, 9, 3) on rank 1")),
        ("frozen", ("'1.weight'", "(3, 4) on rank 0", "(3, 4) frozen on rank 1")),
        ("buffer", ("'running_mean'", "missing on rank 1")),
    ],
)
def test_the_first_difference_is_named_on_every_rank(kind: str, parts: tuple[str, ...]) -> None:
    for error in errors_of_ranks(2, wrap, kind):
        assert isinstance(error, ValueError), error
        assert all(part in str(error) for part in parts), str(error)


def broadcast_all_layouts() -> None:
    context = pyparallel.init()
    generator = torch.Generator().manual_seed(context.rank)
    tensors = [
        torch.randn(3, 4, generator=generator),
        torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        torch.randn(4, 3, generator=generator).t(),
        torch.randn(5, 2, generator=generator)[:, 0],
        torch.randn(0, 3),
        torch.tensor(context.rank),
        torch.tensor([context.rank == 0, True]),
        torch.full((3,), context.rank, dtype=torch.int8),
    ]
    outside = tensors[3]._base
    assert outside is not None
    kept = outside[:, 1].clone()
    broadcast_tensors(tensors, context.communicator)
    generator.manual_seed(0)
    assert torch.equal(tensors[0], torch.randn(3, 4, generator=generator))
    assert torch.equal(tensors[1], torch.randn(2, 3, 4, 4, generator=generator))
    assert torch.equal(tensors[2], torch.randn(4, 3, generator=generator).t())
    assert torch.equal(tensors[3], torch.randn(5, 2, generator=generator)[:, 0])
    assert torch.equal(outside[:, 1], kept)
    assert tensors[5].item() == 0
    assert tensors[6].tolist() == [True, True]
    assert tensors[7].tolist() == [0, 0, 0]


def test_values_of_rank_0_arrive_in_any_layout() -> None:
    run_ranks(2, broadcast_all_layouts)


def buffers_of_every_dtype() -> list[object]:
    rank = pyparallel.init().rank
    module = nn.Linear(2, 2)
    values = {
        "mask": torch.tensor([rank == 0, rank == 1]),
        "scalar": torch.tensor(rank == 0),
        "small": torch.full((3,), rank, dtype=torch.int16),
        "wave": torch.full((2,), complex(rank, 1)),
        "coarse": torch.full((5,), rank + 1.0).to(torch.float8_e5m2),
        "nothing": torch.zeros(0, dtype=torch.bool),
        "gaps": torch.full((4, 2), rank == 0)[:, 0],
    }
    for name, value in values.items():
        module.register_buffer(name, value)
    DataParallel(module)(torch.ones(1, 2))
    return [getattr(module, name).to(torch.complex64).tolist() for name in values]


def test_buffers_of_any_dtype_get_rank_0s_values() -> None:
    expected = [[1, 0], 1, [0] * 3, [1j] * 2, [1] * 5, [], [1] * 4]
    assert run_ranks(2, buffers_of_every_dtype) == [expected] * 2
