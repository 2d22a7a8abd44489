"""Our GradScaler does what torch's does, with one read of the gradients and no write."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import pyparallel
from pyparallel.optim import AdamW

SCALE = 1024.0


def make(max_norm: float | None) -> tuple[list[Tensor], AdamW]:
    torch.manual_seed(0)
    params = [torch.randn(size).requires_grad_() for size in (5, 0, 300)]
    return params, AdamW(params, lr=0.1, max_norm=max_norm)


def train(
    scaler: torch.amp.GradScaler, params: list[Tensor], optimizer: torch.optim.Optimizer, bad: int
) -> list[float]:
    """Five steps; the gradient of step `bad` has an inf. Returns the scale after each."""
    scales = []
    for step in range(5):
        optimizer.zero_grad()
        factor = float("inf") if step == bad else 1.0
        loss = sum((param * (step + 1.0) * factor).sum() for param in params)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("bad", [-1, 0, 3])
def test_it_steps_and_backs_off_as_torchs_does(max_norm: float | None, bad: int) -> None:
    ours, own = make(max_norm)
    theirs, other = make(max_norm)
    scales = train(pyparallel.amp.GradScaler("cpu", init_scale=SCALE), ours, own, bad)
    assert scales == train(torch.amp.GradScaler("cpu", init_scale=SCALE), theirs, other, bad)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert (scales[-1] < SCALE) == (bad >= 0)


def test_the_norm_is_of_the_unscaled_gradients_which_stay_as_they_are() -> None:
    params, optimizer = make(0.5)
    scaler = pyparallel.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(sum(param.sum() for param in params)).backward()
    scaler.step(optimizer)
    assert optimizer.last_grad_norm is not None
    assert optimizer.last_grad_norm.item() == pytest.approx(305**0.5)
    assert all(bool((param.grad == SCALE).all()) for param in params)


def test_gradients_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    params, optimizer = make(0.5)
    reads = []
    read = pyparallel._tensors.sum_of_squares_at
    monkeypatch.setattr(
        pyparallel._tensors, "sum_of_squares_at", lambda *a: reads.append(a) or read(*a)
    )
    scaler = pyparallel.amp.GradScaler("cpu", init_scale=SCALE)
    for _ in range(2):
        optimizer.zero_grad()
        scaler.scale(sum(param.sum() for param in params)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert len(reads) == 2


def test_unscaled_by_hand_and_optimizers_of_torch() -> None:
    params, optimizer = make(None)
    scaler = pyparallel.amp.GradScaler("cpu", init_scale=SCALE)
    scaler.scale(sum(param.sum() for param in params)).backward()
    scaler.unscale_(optimizer)
    assert all(bool((param.grad == 1).all()) for param in params)
    scaler.step(optimizer)
    scaler.update()
    twin = [torch.ones(3, requires_grad=True)]
    train(scaler, twin, torch.optim.SGD(twin, lr=0.1), bad=-1)
    torch.testing.assert_close(twin[0].detach(), torch.full((3,), 1 - 0.1 * 15))
