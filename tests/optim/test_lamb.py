"""LAMB computes what the paper says, to a float32 rounding per step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adam_reference import copies, give_random_grads, random_params
from pyparallel.optim import LAMB

STEPS = 4


@dataclass
class Reference:
    """You et al. 2020, Algorithm 2, in float64, for one parameter."""

    param: Tensor
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True
    trust_clip: float | None = None
    always_adapt: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        self.param = self.param.detach().to(torch.float64, copy=True)
        self.m = torch.zeros_like(self.param)
        self.v = torch.zeros_like(self.param)
        self.count, self.ratio = 0, math.nan

    def step(self, grad: Tensor) -> None:
        """One update."""
        self.count += 1
        beta1, beta2 = self.betas
        grad = grad.detach().to(torch.float64) * (-1 if self.maximize else 1)
        self.m = beta1 * self.m + (1 - beta1) * grad
        self.v = beta2 * self.v + (1 - beta2) * grad**2
        m, v = self.m, self.v
        if self.bias_correction:
            m, v = m / (1 - beta1**self.count), v / (1 - beta2**self.count)
        update = m / (v.sqrt() + self.eps) + self.weight_decay * self.param
        norms = self.param.norm().item(), update.norm().item()
        adapts = (self.weight_decay != 0 or self.always_adapt) and min(norms) > 0
        self.ratio = norms[0] / norms[1] if adapts else 1.0
        if adapts and self.trust_clip is not None:
            self.ratio = min(self.ratio, self.trust_clip)
        self.param -= self.lr * self.ratio * update


def assert_follows(optimizer, params, references):
    for index, (param, reference) in enumerate(zip(params, references, strict=True)):
        torch.testing.assert_close(
            param.detach().double(),
            reference.param,
            rtol=2e-6,
            atol=2e-5 * reference.lr + 1e-7,
            msg=lambda text, index=index: f"parameter {index}: {text}",
        )
        state = optimizer.state[param]
        torch.testing.assert_close(state["exp_avg"].double(), reference.m, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state["exp_avg_sq"].double(), reference.v, rtol=1e-5, atol=1e-9)
        assert state["step"].item() == reference.count


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.125, "trust_clip": 0.7},
        {"weight_decay": 0.0, "trust_clip": 0.5},
        {"weight_decay": 0.0, "always_adapt": True},
        {"bias_correction": False, "eps": 1e-2, "betas": (0.5, 0.8)},
    ],
    ids=["defaults", "clip", "no decay", "always", "no correction"],
)
def test_follows_the_paper(options, maximize):
    params = random_params()
    references = [Reference(p, lr=0.02, maximize=maximize, **options) for p in params]
    optimizer = LAMB(params, lr=0.02, maximize=maximize, **options)
    for step in range(STEPS):
        give_random_grads(params, scale=10.0 ** -(step % 3))
        for reference, param in zip(references, params, strict=True):
            reference.step(param.grad)
        optimizer.step()
    assert_follows(optimizer, params, references)
    ratios = {round(r.ratio, 6) for r in references if r.param.numel() > 0}
    assert ("weight_decay" in options and options["weight_decay"] == 0) == (
        ratios == {1.0} or options.get("always_adapt", False)
    )  # the ratio has been at work where it should


def test_float64_parameters_are_float64_throughout():
    params = random_params(dtype=torch.float64)
    references = [Reference(param, lr=0.02) for param in params]
    optimizer = LAMB(params, lr=0.02)
    for _ in range(STEPS):
        give_random_grads(params)
        for reference, param in zip(references, params, strict=True):
            reference.step(param.grad)
        optimizer.step()
    for param, reference in zip(params, references, strict=True):
        torch.testing.assert_close(param.detach(), reference.param, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("zero", ["param", "grad"])
def test_the_ratio_is_1_where_a_norm_is_0(zero):
    param = torch.zeros(9) if zero == "param" else torch.randn(9)
    grad = torch.zeros(9) if zero == "grad" else torch.randn(9)
    param.requires_grad_()
    reference = Reference(param, lr=0.1, weight_decay=0.0, always_adapt=True)
    optimizer = LAMB([param], lr=0.1, weight_decay=0.0, always_adapt=True)
    param.grad = grad
    reference.step(grad)
    optimizer.step()
    assert reference.ratio == 1.0
    assert_follows(optimizer, [param], [reference])


def test_a_ratio_is_of_one_tensor_alone():
    """The same tensor steps alike whatever stands beside it."""
    params = random_params((70_001, 3, 513))
    twins = copies(params)
    params[0].data.mul_(1000)
    together = LAMB(params, lr=0.1, weight_decay=0.1)
    alone = [LAMB([twin], lr=0.1, weight_decay=0.1) for twin in twins]
    for _ in range(3):
        give_random_grads(params, twins)
        together.step()
        for optimizer in alone:
            optimizer.step()
    torch.testing.assert_close(params[1:], twins[1:], rtol=1e-6, atol=1e-7)


def test_squares_out_of_the_range_of_float32_are_added():
    param = torch.full((1000,), 1e25, requires_grad=True)
    reference = Reference(param, lr=0.1)
    optimizer = LAMB([param], lr=0.1)
    param.grad = torch.randn(1000)
    reference.step(param.grad)
    optimizer.step()
    torch.testing.assert_close(param.double(), reference.param, rtol=1e-6, atol=0)
    assert not torch.equal(param, torch.full((1000,), 1e25))
