"""NovoGrad computes what the paper says, to a float32 rounding per step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from adam_reference import give_random_grads, random_params
from pyparallel.optim import NovoGrad

STEPS = 4


@dataclass
class Reference:
    """Ginsburg et al. 2019, Algorithm 1, in float64, for one parameter."""

    param: Tensor
    lr: float = 1e-3
    betas: tuple[float, float] = (0.95, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_averaging: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        self.param = self.param.detach().to(torch.float64, copy=True)
        self.m, self.v = torch.zeros_like(self.param), None

    def step(self, grad: Tensor) -> None:
        """One update; the first squared norm starts the second moment."""
        beta1, beta2 = self.betas
        grad = grad.detach().to(torch.float64) * (-1 if self.maximize else 1)
        squares = grad.square().sum()
        self.v = squares if self.v is None else beta2 * self.v + (1 - beta2) * squares
        change = grad / (self.v.sqrt() + self.eps) + self.weight_decay * self.param
        self.m = beta1 * self.m + (1 - beta1 if self.grad_averaging else 1) * change
        self.param -= self.lr * self.m


def run(params, references, optimizer, present=None):
    for step in range(STEPS):
        give_random_grads(params, scale=10.0 ** -(step % 3))
        for index, (reference, param) in enumerate(zip(references, params, strict=True)):
            if present is not None and not present(step, index):
                param.grad = None
            else:
                reference.step(param.grad)
        optimizer.step()


def assert_follows(optimizer, params, references, rtol=2e-6, atol=2e-6):
    for param, reference in zip(params, references, strict=True):
        torch.testing.assert_close(param.detach().double(), reference.param, rtol=rtol, atol=atol)
        second = optimizer.state[param]["exp_avg_sq"]
        assert (second.dtype, second.shape) == (torch.float64, ())
        torch.testing.assert_close(second, reference.v, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.125},
        {"grad_averaging": True, "weight_decay": 0.125, "maximize": True},
        {"betas": (0.5, 0.0), "eps": 0.5},
    ],
    ids=["defaults", "decay", "averaging", "other betas"],
)
def test_follows_the_paper(options, dtype):
    params = random_params(dtype=dtype)
    references = [Reference(param, lr=0.05, **options) for param in params]
    optimizer = NovoGrad(params, lr=0.05, **options)
    run(params, references, optimizer)
    tolerances = {} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    assert_follows(optimizer, params, references, **tolerances)


def test_the_first_norm_is_that_of_a_parameters_first_step():
    params = random_params((513, 5, 7))
    references = [Reference(param, lr=0.05) for param in params]
    optimizer = NovoGrad(params, lr=0.05)
    run(params, references, optimizer, present=lambda step, index: step >= index)
    assert_follows(optimizer, params, references)


def test_a_gradient_of_zeros_moves_nothing():
    param = torch.randn(5, requires_grad=True)
    before = param.detach().clone()
    optimizer = NovoGrad([param])
    param.grad = torch.zeros(5)
    optimizer.step()
    assert torch.equal(param, before)
