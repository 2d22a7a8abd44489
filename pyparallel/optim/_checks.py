"""Hyperparameters are refused in torch's words, and NaN too."""

from __future__ import annotations

import math

from torch import Tensor


def check_lr(lr: float | Tensor, *, text: str = "Invalid learning rate") -> None:
    """A learning rate: one number, at least 0, finite. One on a GPU is not read: that would wait.

    Raises:
        ValueError: with the value, after `text`: torch's classes have two ways to say it.
    """
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if lr.device.type != "cpu":
            return
    if not 0.0 <= lr < math.inf:
        raise ValueError(f"{text}: {lr}")


def check_not_negative(**values: float | Tensor) -> None:
    """Each value is at least 0.

    Raises:
        ValueError: naming the first that is not, as "Invalid NAME value: VALUE".
    """
    for name, value in values.items():
        if not value >= 0.0:
            name = {"eps": "epsilon"}.get(name, name)
            raise ValueError(f"Invalid {name} value: {value}")


def check_betas(betas: tuple[float | Tensor, float | Tensor]) -> None:
    """Decay rates lie in [0, 1), and are all numbers or all tensors of one element.

    Raises:
        ValueError: with the value and its place.
    """
    if len({isinstance(beta, Tensor) for beta in betas}) > 1:
        raise ValueError("betas must be either both floats or both Tensors")
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")


def number(lr: float | Tensor) -> float:
    """A learning rate for a kernel; one on a GPU is read there, by its address."""
    if isinstance(lr, Tensor) and lr.device.type != "cpu":
        return 0.0
    return float(lr)
