"""The optimizers as tests see them: our class, torch's, the float64 reference, what to try.

A new optimizer enters every test of the family with one entry here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pyparallel import optim
from references import (
    AdagradReference,
    AdamReference,
    AdamWReference,
    LionReference,
    Reference,
    RMSpropReference,
    SGDReference,
)


@dataclass(frozen=True)
class Member:
    """One optimizer; `cases` are sets of hyperparameters that call for different code."""

    ours: Any
    twin: Any
    reference: type[Reference]
    cases: tuple[dict[str, Any], ...]
    steady: dict[str, Any]  # with all states there are

    def __str__(self) -> str:
        return str(self.ours.__name__)


_ADAM = (
    {},
    {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1},
    {"amsgrad": True, "maximize": True},
    {"amsgrad": True, "weight_decay": 0.1, "eps": 1.0},
)
FAMILY = (
    Member(optim.Adam, torch.optim.Adam, AdamReference, _ADAM, _ADAM[3]),
    Member(optim.AdamW, torch.optim.AdamW, AdamWReference, _ADAM, _ADAM[3]),
    Member(
        optim.SGD,
        torch.optim.SGD,
        SGDReference,
        (
            {},
            {"weight_decay": 0.1, "maximize": True},
            {"momentum": 0.9},
            {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
            {"momentum": 0.5, "nesterov": True, "maximize": True},
        ),
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    ),
    Member(
        optim.Adagrad,
        torch.optim.Adagrad,
        AdagradReference,
        (
            {},
            {"lr_decay": 0.1, "weight_decay": 0.1, "maximize": True},
            {"initial_accumulator_value": 0.5, "eps": 1e-3},
        ),
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    Member(
        optim.RMSprop,
        torch.optim.RMSprop,
        RMSpropReference,
        (
            {},
            {"alpha": 0.5, "weight_decay": 0.1, "maximize": True},
            {"momentum": 0.9, "eps": 1e-3},
            {"centered": True, "alpha": 0.9, "eps": 1e-2},
            {"centered": True, "momentum": 0.5, "alpha": 0.9},
        ),
        {"centered": True, "momentum": 0.5, "alpha": 0.9, "eps": 1e-2},
    ),
    Member(
        optim.Lion,
        None,
        LionReference,
        ({}, {"betas": (0.5, 0.7), "weight_decay": 0.1}, {"maximize": True}),
        {"weight_decay": 0.1},
    ),
)

KEPT = [
    {"master": master, "state_dtype": state_dtype, "stochastic_rounding": stochastic, "seed": 7}
    for master, state_dtype, stochastic in product(
        (None, "fp32", "remainder"), ("fp32", "bf16", "8bit"), (False, True)
    )
    if not (stochastic and master)
]
"""Every way to keep parameters and states."""


def make_params(
    dtype: torch.dtype = torch.float32, sizes: tuple[int, ...] = (1, 0, 7, 300)
) -> list[Tensor]:
    """Leaves of normal values, one of each size."""
    return [torch.randn(size).to(dtype).requires_grad_() for size in sizes]


def twins_of(params: list[Tensor]) -> list[Tensor]:
    """Leaves of the same values."""
    return [param.detach().clone().requires_grad_() for param in params]


def give_grads(*lists: list[Tensor]) -> None:
    """The same fresh gradient to the parameters at the same place of every list."""
    for together in zip(*lists, strict=True):
        grad = torch.randn(together[0].shape, dtype=torch.float64)
        for param in together:
            param.grad = grad.to(param.dtype)


def assert_same_bits(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    """Parameters and states of two optimizers are equal, bit for bit."""
    for group, twin_group in zip(ours.param_groups, theirs.param_groups, strict=True):
        for param, twin in zip(group["params"], twin_group["params"], strict=True):
            assert torch.equal(param, twin)
            state, twin_state = ours.state[param], theirs.state[twin]
            assert state.keys() == twin_state.keys()
            for key, value in state.items():
                assert value.dtype == twin_state[key].dtype, key
                assert torch.equal(value, twin_state[key]), key
