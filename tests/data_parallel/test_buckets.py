"""GradientBuckets: order, sizes, and what the spans say of them."""

from __future__ import annotations

import pytest
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


def backward_that_raises(seed: int) -> int:
    """Reductions of the failed backward go on in the background while the next one packs."""
    context = pyparallel.init()
    module = nn.Sequential(*[nn.Linear(700, 700) for _ in range(6)])
    model = DataParallel(module, overlap=True, bucket_cap_mb=1)
    wrong = 0

    def fail(_: torch.Tensor) -> None:
        raise KeyError("a mistake of all ranks")

    for step in range(20):
        torch.manual_seed(seed + 1000 * step + context.rank)
        x = torch.randn(2, 700)
        handle = module[1].weight.register_hook(fail)
        model.zero_grad()
        with pytest.raises(KeyError):
            model(x).sum().backward()
        handle.remove()
        model.zero_grad()
        model(x).sum().backward()
        own = torch.autograd.grad(module(x).sum(), list(module.parameters()))
        for param, grad in zip(module.parameters(), own, strict=True):
            expected = grad.contiguous()
            context.communicator.all_reduce(expected, "mean").wait()
            assert param.grad is not None
            wrong += not torch.equal(param.grad, expected)
    return wrong


def test_a_backward_after_one_that_raised_is_right(seed: int) -> None:
    assert run_ranks(2, backward_that_raises, seed) == [0, 0]


def large_float16_gradients() -> float:
    pyparallel.init()
    module = nn.Linear(1, 1, bias=False).to(torch.float16)
    DataParallel(module)(torch.full((1, 1), 60_000.0, dtype=torch.float16)).sum().backward()
    assert module.weight.grad is not None
    return module.weight.grad.item()


def test_the_mean_of_large_float16_gradients_does_not_overflow() -> None:
    assert run_ranks(3, large_float16_gradients) == [60_000.0] * 3


def gradients_put_there_by_hand() -> None:
    """Other memory, another order, gaps, a pending negation: reduced by value all the same."""
    rank = pyparallel.init().rank
    module = nn.Linear(6, 6, bias=False)
    model = DataParallel(module)
    value = torch.arange(36.0).view(6, 6) * (rank + 1)
    expected = torch.arange(36.0).view(6, 6) * 1.5 + 1
    for grad in (
        value.clone(),
        value.t().contiguous().t(),
        torch.stack([value, value], -1)[..., 0],
        torch._neg_view(-value),
        value.to(torch.float32),
    ):
        module.weight.grad = grad
        model(torch.ones(1, 6)).sum().backward()  # adds 1
        torch.testing.assert_close(module.weight.grad, expected)


def test_gradients_in_any_layout_are_reduced_by_value() -> None:
    run_ranks(2, gradients_put_there_by_hand)
