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
    }
    DataParallel(models[kind]())


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("shape", ("'weight'", "(4, 3) on rank 0", "(5, 3) on rank 1")),
        ("dtype", ("'weight'", "torch.float32 (4, 3) on rank 0", "torch.float64 (4, 3) on rank 1")),
        ("name", ("'0.weight'", "'1.weight'")),
        ("missing", ("'bias'", "rank 0", "missing on rank 1")),
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
