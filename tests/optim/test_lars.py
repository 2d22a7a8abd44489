"""LARS computes what the paper says, to a float32 rounding per step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adam_reference import copies, give_random_grads, random_params
from pyparallel.optim import LARS, SGD

STEPS = 4


@dataclass
class Reference:
    """You, Gitman, Ginsburg 2017, Algorithm 1, in float64: the rate is inside of the momentum."""

    param: Tensor
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    trust_coefficient: float = 0.001
    eps: float = 1e-8
    maximize: bool = False

    def __post_init__(self) -> None:
        self.param = self.param.detach().to(torch.float64, copy=True)
        self.velocity = torch.zeros_like(self.param)

    def step(self, grad: Tensor) -> None:
        """One update."""
        grad = grad.detach().to(torch.float64) * (-1 if self.maximize else 1)
        param_norm, grad_norm = self.param.norm(), grad.norm()
        rate = 1.0
        if param_norm > 0 and grad_norm > 0:
            denominator = grad_norm + self.weight_decay * param_norm + self.eps
            rate = self.trust_coefficient * param_norm / denominator
        direction = grad + self.weight_decay * self.param
        self.velocity = self.momentum * self.velocity + self.lr * rate * direction
        self.param -= self.velocity


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.125},
        {"weight_decay": 0.5, "trust_coefficient": 0.3, "eps": 0.1},
    ],
    ids=["plain", "momentum", "decay", "large"],
)
def test_follows_the_paper(options, maximize, dtype):
    params = random_params(dtype=dtype)
    references = [Reference(p, lr=2.0, maximize=maximize, **options) for p in params]
    optimizer = LARS(params, lr=2.0, maximize=maximize, **options)
    for step in range(STEPS):
        give_random_grads(params, scale=10.0 ** -(step % 3))
        for reference, param in zip(references, params, strict=True):
            reference.step(param.grad)
        optimizer.step()
    rtol, atol = (2e-6, 2e-6) if dtype == torch.float32 else (1e-13, 1e-14)
    for param, reference in zip(params, references, strict=True):
        torch.testing.assert_close(param.detach().double(), reference.param, rtol=rtol, atol=atol)
        if options.get("momentum"):
            buffer = optimizer.state[param]["momentum_buffer"].double() * 2.0
            torch.testing.assert_close(buffer, reference.velocity, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.5},
        {},
    ],
    ids=["nesterov", "dampening", "plain"],
)
def test_without_trust_it_is_sgd(options):
    params = random_params()
    twins = copies(params)
    ours = LARS(params, 0.1, **options, trust_coefficient=None)
    theirs = SGD(twins, 0.1, **options)
    for _ in range(STEPS):
        give_random_grads(params, twins)
        ours.step()
        theirs.step()
    torch.testing.assert_close(params, twins, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("options", [{"nesterov": True}, {"dampening": 0.5}], ids=str)
def test_trust_scales_what_enters_the_momentum(options):
    """SGD over gradients that were scaled by hand."""
    params = random_params((513, 7))
    twins = copies(params)
    options = {"lr": 0.1, "momentum": 0.9, **options}
    ours, theirs = LARS(params, **options, trust_coefficient=0.5), SGD(twins, **options)
    for _ in range(STEPS):
        give_random_grads(params, twins)
        for twin in twins:
            twin.grad = twin.grad * (0.5 * twin.detach().norm() / twin.grad.norm())
        ours.step()
        theirs.step()
    torch.testing.assert_close(params, twins, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero", ["param", "grad"])
def test_the_rate_is_1_where_a_norm_is_0(zero):
    param = (torch.zeros(9) if zero == "param" else torch.randn(9)).requires_grad_()
    param.grad = torch.zeros(9) if zero == "grad" else torch.randn(9)
    reference = Reference(param, lr=0.5, weight_decay=0.25)
    reference.step(param.grad)
    LARS([param], lr=0.5, weight_decay=0.25).step()
    torch.testing.assert_close(param.detach().double(), reference.param, rtol=1e-6, atol=1e-7)
