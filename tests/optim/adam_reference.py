"""Adam and AdamW in float64, written from the papers, for one parameter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class AdamReference:
    """Kingma, Ba 2015, Algorithm 1; Loshchilov, Hutter 2019, Algorithm 2; Reddi et al. 2018."""

    param: Tensor
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    maximize: bool = False
    decoupled: bool = False

    def __post_init__(self) -> None:
        self.param = self.param.detach().to(torch.float64, copy=True)
        self.exp_avg = torch.zeros_like(self.param)
        self.exp_avg_sq = torch.zeros_like(self.param)
        self.max_exp_avg_sq = torch.zeros_like(self.param)
        self.condition = torch.zeros_like(self.param)
        self.count = 0

    def step(self, grad: Tensor | None) -> None:
        """One update; a missing gradient changes nothing and is not counted."""
        if grad is None:
            return
        self.count += 1
        beta1, beta2 = self.betas
        grad = grad.detach().to(torch.float64) * (-1 if self.maximize else 1)
        if self.decoupled:
            self.param *= 1 - self.lr * self.weight_decay
        else:
            grad = grad + self.weight_decay * self.param
        self.exp_avg = beta1 * self.exp_avg + (1 - beta1) * grad
        self.exp_avg_sq = beta2 * self.exp_avg_sq + (1 - beta2) * grad**2
        self.max_exp_avg_sq = torch.maximum(self.max_exp_avg_sq, self.exp_avg_sq)
        second = self.max_exp_avg_sq if self.amsgrad else self.exp_avg_sq
        denominator = (second / (1 - beta2**self.count)).sqrt() + self.eps
        # The decay and the gradient may cancel: what is left of them carries their rounding.
        self.condition += self.weight_decay * self.param.abs() / denominator
        self.param -= self.lr / (1 - beta1**self.count) * self.exp_avg / denominator


SIZES = (0, 1, 3, 64, 513, 0, 4097, 1, 140_003, 0)
"""Empty at the start, in the middle and at the end; odd; longer than one task of a thread."""


def random_params(sizes: Iterable[int] = SIZES, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters of normal values."""
    return [torch.randn(size).to(dtype).requires_grad_() for size in sizes]


def give_random_grads(*twins: list[Tensor], scale: float = 1.0) -> None:
    """The same fresh gradient to the parameters at the same place of every list."""
    for params in zip(*twins, strict=True):
        grad = torch.randn(params[0].shape) * scale
        for param in params:
            param.grad = grad.to(param.dtype)


def copies(params: Iterable[Tensor]) -> list[Tensor]:
    """Leaves of the same values, dtype and strides."""
    return [param.detach().clone().requires_grad_() for param in params]


def assert_follows(
    optimizer: torch.optim.Optimizer, params: list[Tensor], references: list[AdamReference]
) -> None:
    """float32 parameters and states are the float64 ones to a rounding per step."""
    for index, (param, reference) in enumerate(zip(params, references, strict=True)):
        steps, condition = max(reference.count, 1), reference.condition
        bound = steps * 2**-22 * reference.param.abs()
        bound += reference.lr * (steps * 2**-18 + 2**-21 * condition)
        excess = (param.detach().double() - reference.param).abs() - bound
        if param.numel() and excess.max() > 0:
            at = excess.argmax()
            raise AssertionError(
                f"parameter {index} of shape {tuple(param.shape)}, element {at}: "
                f"{param.flatten()[at]} instead of {reference.param.flatten()[at]}"
            )
        if reference.count == 0:
            continue
        state = optimizer.state[param]
        assert state["step"].item() == reference.count
        keys = ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if reference.amsgrad else []))
        for key in keys:
            expected, well = getattr(reference, key), condition < 100
            torch.testing.assert_close(
                state[key].double()[well], expected[well], rtol=2e-6, atol=1e-6
            )
