"""GradientBuckets: order, sizes, and what the spans say of them."""

from __future__ import annotations

import torch
from torch import nn

import pyparallel
from pyparallel import DataParallel
from pyparallel.comm import SoloCommunicator
from pyparallel.data_parallel.buckets import GradientBuckets
from pyparallel.monitor import SPANS
from ranks import run_ranks


def test_every_parameter_is_in_one_bucket_and_buckets_fill_from_the_last_parameter() -> None:
    sizes = (70_000, 10, 300_000, 5, 5)
    params = {f"p{i}": nn.Parameter(torch.zeros(size)) for i, size in enumerate(sizes)}
    buckets = GradientBuckets(
        params,
        SoloCommunicator(torch.device("cpu")),
        bucket_bytes=1 << 20,
        first_bucket_bytes=1 << 10,
        background=False,
    )
    members = [bucket.members for bucket in buckets._buckets]
    assert members == [(4, 3), (2,), (1, 0)]
    for bucket in buckets._buckets:
        for view, offset in zip(bucket.views, bucket.offsets, strict=True):
            assert view.data_ptr() % 64 == bucket.flat.data_ptr() % 64
            assert bucket.flat[offset:].data_ptr() == view.data_ptr()


def spans_of_a_step() -> dict[str, float]:
    pyparallel.init()
    model = DataParallel(nn.Sequential(*[nn.Linear(400, 400) for _ in range(4)]), overlap=False)
    for _ in range(3):
        SPANS.reset()
        model(torch.randn(64, 400)).sum().backward()
    return SPANS.totals()


def test_pack_reduce_and_wait_are_recorded_and_plausible() -> None:
    for totals in run_ranks(2, spans_of_a_step):
        assert set(totals) == {"pack", "reduce", "wait"}
        assert all(0 <= seconds < 1 for seconds in totals.values())
        assert totals["reduce"] > 0


def reduces_what_was_accumulated() -> None:
    """A parameter without gradient in the last backward still brings what it had before."""
    context = pyparallel.init()
    first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x: torch.Tensor, which: str) -> torch.Tensor:
            return getattr(self, which)(x).sum()

    model = DataParallel(Either(), find_unused_parameters=True)
    x = torch.full((1, 1), float(context.rank + 1))
    with model.no_sync():
        model(x, "first").backward()
    model(x, "second").backward()
    assert first.weight.grad is not None
    assert second.weight.grad is not None
    assert first.weight.grad.item() == second.weight.grad.item() == 1.5


def test_gradients_accumulated_without_sync_are_reduced_later() -> None:
    run_ranks(2, reduces_what_was_accumulated)
