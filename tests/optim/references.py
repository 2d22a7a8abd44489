"""The optimizers in float64, written from the papers, in numbers that know their own error.

A Number carries a bound of what the same arithmetic loses in the tested precision (running error
analysis: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.3). So a result is
compared as closely as its own conditioning allows, element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Relative rounding of one operation with one rounded constant; absolute: what underflows.
UNITS = {torch.float64: 2.0**-51, torch.float32: 2.0**-22}
TINY = 2.0**-126
# Relative error of a value kept in a dtype, nearest and at random; and its smallest steps.
ROUNDINGS = {
    torch.float64: (0.0, 0.0),
    torch.float32: (0.0, 0.0),
    torch.bfloat16: (2.0**-8, 2.0**-133),
    torch.float16: (2.0**-11, 2.0**-24),
}


@dataclass
class Number:
    """A float64 tensor and the largest error that it may have."""

    value: Tensor
    error: Tensor
    unit: float

    def _rounded(self, value: Tensor, error: Tensor) -> Number:
        return Number(value, error + self.unit * value.abs() + TINY, self.unit)

    def _other(self, other: Number | float) -> tuple[Any, Any]:
        return (other.value, other.error) if isinstance(other, Number) else (other, 0.0)

    def __add__(self, other: Number | float) -> Number:
        value, error = self._other(other)
        return self._rounded(self.value + value, self.error + error)

    def __sub__(self, other: Number | float) -> Number:
        value, error = self._other(other)
        return self._rounded(self.value - value, self.error + error)

    def __mul__(self, other: Number | float) -> Number:
        value, error = self._other(other)
        lost = self.value.abs() * error + self.error * (abs(value) + error)
        return self._rounded(self.value * value, lost)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Number:
        return Number(-self.value, self.error, self.unit)

    def __truediv__(self, other: Number) -> Number:
        quotient, room = self.value / other.value, other.value.abs() - other.error
        lost = (self.error + quotient.abs() * other.error) / room
        return self._rounded(quotient, torch.where(room > 0, lost, torch.inf))

    def sqrt(self) -> Number:
        root = self.value.clamp(min=0).sqrt()
        least = (self.value - self.error).clamp(min=0).sqrt()
        most = (self.value + self.error).clamp(min=0).sqrt()
        return self._rounded(root, torch.maximum(most - root, root - least))

    def sign(self) -> Number:
        doubt = (self.value.abs() <= self.error) & (self.error > 0)
        return Number(self.value.sign(), torch.where(doubt, 2.0, 0.0).double(), self.unit)

    def maximum(self, other: Number) -> Number:
        value = torch.maximum(self.value, other.value)
        return Number(value, torch.maximum(self.error, other.error), self.unit)

    def kept_as(self, kind: str, *, signed: bool) -> Number:
        """The number after it was stored in a state_dtype, rounded at random."""
        size = self.value.abs() + self.error
        if kind == "fp32" or not size.numel() or self.unit == UNITS[torch.float64]:
            return self
        if kind == "bf16":
            lost = 2.0**-7 * size + 2.0**-133
        else:
            lost = 2.0**-3 * size + 2.0 ** (-15 if signed else -31) * size.max()
        return Number(self.value, self.error + lost, self.unit)


class Reference:
    """One parameter; `step` is an update in the names of the paper."""

    defaults: dict[str, Any]
    signed: tuple[str, ...] = ()

    def __init__(
        self, param: Tensor, *, state_dtype: str = "fp32", kept: str = "exact", **given: Any
    ) -> None:
        """`kept`: the parameter loses "nearest" or "random" rounding at each step, or "exact"."""
        unknown = given.keys() - self.defaults.keys()
        assert not unknown, f"{type(self).__name__} knows no {unknown}"
        self.hyper = self.defaults | {"maximize": False} | given
        self.dtype, self.kept, self.state_dtype = param.dtype, kept, state_dtype
        self.unit = UNITS.get(param.dtype, UNITS[torch.float32])
        self.param = self.number(param.detach().double())
        self.states: dict[str, Number] = {}
        self.count = 0

    def number(self, value: Tensor) -> Number:
        value = value.clone()
        return Number(value, torch.zeros_like(value), self.unit)

    def state(self, name: str, value: float = 0.0) -> Number:
        return self.states.get(name) or self.number(torch.full_like(self.param.value, value))

    def keep(self, **states: Number) -> None:
        for name, value in states.items():
            self.states[name] = value.kept_as(self.state_dtype, signed=name in self.signed)

    def step(self, grad: Tensor | None) -> None:
        """One update; a missing gradient changes nothing and is not counted."""
        if grad is None:
            return
        self.count += 1
        given = self.number(grad.detach().double())
        self.param = self.update(-given if self.hyper["maximize"] else given, **self.hyper)
        if self.kept != "exact":
            relative, least = ROUNDINGS[self.dtype]
            twice = 2 if self.kept == "random" else 1
            size = self.param.value.abs() + self.param.error
            self.param.error = self.param.error + twice * (relative * size + least)

    def update(self, g: Number, **hyper: Any) -> Number:
        """The new parameter; states go through keep()."""
        raise NotImplementedError


class SGDReference(Reference):
    """Sutskever et al. 2013, section 2, with dampening as torch documents it."""

    defaults = {"lr": 1e-3, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0}  # noqa: RUF012
    defaults |= {"nesterov": False, "maximize": False}
    signed = ("momentum_buffer",)

    def update(self, g, *, lr, momentum, dampening, weight_decay, nesterov, **_):
        g = g + weight_decay * self.param
        if momentum == 0:
            return self.param - lr * g
        first = "momentum_buffer" not in self.states
        self.keep(
            momentum_buffer=g
            if first
            else momentum * self.state("momentum_buffer") + (1 - dampening) * g
        )
        buffer = self.state("momentum_buffer")
        return self.param - lr * (g + momentum * buffer if nesterov else buffer)


class AdagradReference(Reference):
    """Duchi, Hazan, Singer 2011, diagonal; the decay of the rate is torch's."""

    defaults = {"lr": 1e-2, "lr_decay": 0.0, "weight_decay": 0.0, "eps": 1e-10}  # noqa: RUF012
    defaults |= {"initial_accumulator_value": 0.0, "maximize": False}

    def update(self, g, *, lr, lr_decay, weight_decay, eps, initial_accumulator_value, **_):
        g = g + weight_decay * self.param
        self.keep(sum=self.state("sum", initial_accumulator_value) + g * g)
        rate = lr / (1 + (self.count - 1) * lr_decay)
        return self.param - rate * g / (self.state("sum").sqrt() + eps)


class RMSpropReference(Reference):
    """Hinton 2012, lecture 6e; centred: Graves 2013, section 4.2."""

    defaults = {"lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0.0}  # noqa: RUF012
    defaults |= {"momentum": 0.0, "centered": False, "maximize": False}
    signed = ("grad_avg", "momentum_buffer")

    def update(self, g, *, lr, alpha, eps, weight_decay, momentum, centered, **_):
        g = g + weight_decay * self.param
        self.keep(square_avg=alpha * self.state("square_avg") + (1 - alpha) * (g * g))
        second = self.state("square_avg")
        if centered:
            self.keep(grad_avg=alpha * self.state("grad_avg") + (1 - alpha) * g)
            second = second - self.state("grad_avg") * self.state("grad_avg")
        step = g / (second.sqrt() + eps)
        if momentum:
            self.keep(momentum_buffer=momentum * self.state("momentum_buffer") + step)
            step = self.state("momentum_buffer")
        return self.param - lr * step


class LionReference(Reference):
    """Chen et al. 2023, Algorithm 2."""

    defaults = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}  # noqa: RUF012
    defaults |= {"maximize": False}
    signed = ("exp_avg",)

    def update(self, g, *, lr, betas, weight_decay, **_):
        m = self.state("exp_avg")
        c = betas[0] * m + (1 - betas[0]) * g
        self.keep(exp_avg=betas[1] * m + (1 - betas[1]) * g)
        return (1 - lr * weight_decay) * self.param - lr * c.sign()


class AdamReference(Reference):
    """Kingma, Ba 2015, Algorithm 1; Reddi et al. 2018, Algorithm 2."""

    defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}  # noqa: RUF012
    defaults |= {"amsgrad": False, "maximize": False}
    signed = ("exp_avg",)
    decoupled = False

    def update(self, g, *, lr, betas, eps, weight_decay, amsgrad, **_):
        param, t = self.param, self.count
        if self.decoupled:
            param = (1 - lr * weight_decay) * param
        else:
            g = g + weight_decay * param
        self.keep(exp_avg=betas[0] * self.state("exp_avg") + (1 - betas[0]) * g)
        self.keep(exp_avg_sq=betas[1] * self.state("exp_avg_sq") + (1 - betas[1]) * (g * g))
        second = self.state("exp_avg_sq")
        if amsgrad:
            self.keep(max_exp_avg_sq=self.state("max_exp_avg_sq").maximum(second))
            second = self.state("max_exp_avg_sq")
        denominator = (second * (1 / (1 - betas[1] ** t))).sqrt() + eps
        return param - lr / (1 - betas[0] ** t) * (self.state("exp_avg") / denominator)


class AdamWReference(AdamReference):
    """Loshchilov, Hutter 2019, Algorithm 2."""

    defaults = AdamReference.defaults | {"weight_decay": 1e-2}
    decoupled = True
