"""Who steps beside our optimizers in `bench optim`: torch's three ways, and what is installed."""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyparallel import amp, optim
from pyparallel.cli.arguments import DTYPES

HYPER: dict[str, dict[str, Any]] = {
    "adam": {"lr": 1e-3},
    "adamw": {"lr": 1e-3},
    "sgd": {"lr": 1e-3, "momentum": 0.9},
    "adagrad": {"lr": 1e-3},
    "rmsprop": {"lr": 1e-3},
    "lion": {"lr": 1e-4},
    "lamb": {"lr": 1e-3},
    "lars": {"lr": 1e-1, "momentum": 0.9},
    "novograd": {"lr": 1e-3},
    "adafactor": {"lr": 1e-2},
    "muon": {"lr": 1e-3},
}
NAMES = tuple(HYPER)
_CLASSES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "adagrad": "Adagrad"}
_CLASSES |= {"rmsprop": "RMSprop", "lion": "Lion", "lamb": "LAMB", "lars": "LARS"}
_CLASSES |= {"novograd": "NovoGrad", "adafactor": "Adafactor", "muon": "Muon"}
# Of those that pass over memory once; what others move depends on more than the number of states.
_STATES = {"adam": 2, "adamw": 2, "sgd": 1, "adagrad": 1, "rmsprop": 1, "lion": 1}
# Algorithm and device to the class of another package; those keep states as ours do or in 8 bits.
_OTHERS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("adamw", "cpu"): (("deepspeed.ops.adam", "DeepSpeedCPUAdam"), ("torchao.optim", "AdamW8bit")),
    ("adamw", "cuda"): (
        ("apex.optimizers", "FusedAdam"),
        ("bitsandbytes.optim", "AdamW8bit"),
        ("torchao.optim", "AdamW8bit"),
    ),
    ("sgd", "cuda"): (("apex.optimizers", "FusedSGD"),),
    ("lion", "cuda"): (("bitsandbytes.optim", "Lion8bit"),),
}
MAX_NORM = 1.0


@dataclass(frozen=True)
class Entrant:
    """A contestant: its step, and the parameters that it moves.

    Attributes:
        name: whose implementation.
        params: its own copies.
        step: one step, with scaler and clipping if asked for.
        is_known: whether we know how many bytes it moves.
    """

    name: str
    params: list[Tensor]
    step: Callable[[], object]
    is_known: bool = True


def bytes_per_parameter(name: str, options: argparse.Namespace, *, ours: bool) -> float:
    """Bytes that a step must read and write per parameter.

    The gradient is read; parameter and states are read and written; with a master that takes the
    parameter's place, which then is only written. Clipping reads the gradient once more. torch's
    states have the parameter's dtype; 8-bit ones carry a float32 scale per 128. 0 for optimizers
    that take several passes.
    """
    if name not in _STATES:
        return 0.0
    size = DTYPES[options.dtype].itemsize
    grads = size * (2 if options.amp else 1)
    if not ours:
        writes = 6 * size if options.amp else size  # unscale and clip: read, write, read, write
        return writes + 2 * size + 2 * size * _STATES[name]
    state = {"fp32": 4.0, "bf16": 2.0, "8bit": 1 + 4 / 128}[options.state_dtype]
    if options.dtype == "fp64":
        state = 8.0
    narrow = size == 2
    extra = {"fp32": 8 - size, "remainder": 4}.get(options.master, 0) if narrow else 0
    return grads + 2 * size + extra + 2 * state * _STATES[name]


def entrants(
    name: str, values: Sequence[Tensor], grads: Sequence[Tensor], options: argparse.Namespace
) -> list[Entrant]:
    """Ours first, then torch's, then what else is installed; all start from the same values."""

    def enter(label: str, make: Callable[[list[Tensor]], Any], *, known: bool = True) -> Entrant:
        params = [value.clone().requires_grad_() for value in values]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone() if options.amp else grad
        optimizer = make(params)
        ours = label == "pyparallel"
        step = _amp_step(optimizer, params, ours=ours) if options.amp else optimizer.step
        return Entrant(label, params, step, known)

    fused: dict[str, Any] = {
        "master": options.master,
        "state_dtype": options.state_dtype,
        "stochastic_rounding": options.stochastic_rounding,
        "max_norm": MAX_NORM if options.amp else None,
    }
    cls, hyper = _CLASSES[name], HYPER[name]
    found = [enter("pyparallel", lambda params: getattr(optim, cls)(params, **hyper, **fused))]
    torchs = getattr(torch.optim, cls, None)
    accepted = inspect.signature(torchs.__init__).parameters if torchs is not None else ()
    for label, ways in _TORCH.items():
        if torchs is not None and all(way in accepted for way in ways if ways[way]):
            kept = {way: on for way, on in ways.items() if way in accepted}
            found.append(enter(label, partial(torchs, **hyper, **kept)))
    for module, attribute in _OTHERS.get((name, options.device), ()):
        make = _installed(module, attribute)
        if make is not None:
            label = f"{module.split('.')[0]} {attribute}"
            found.append(enter(label, partial(make, **hyper), known=False))
    return found


_TORCH: dict[str, dict[str, bool]] = {
    "torch for-loop": {"foreach": False},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
}


def _installed(module: str, attribute: str) -> Any | None:
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception:  # not installed, or not for this machine: it takes no part
        return None


def _amp_step(
    optimizer: torch.optim.Optimizer, params: list[Tensor], *, ours: bool
) -> Callable[[], object]:
    """Unscale, clip and step: one call with our scaler, three with torch's."""
    device = params[0].device.type
    cls = amp.GradScaler if ours else torch.amp.GradScaler
    scaler = cls(device, init_scale=1.0, growth_interval=1 << 30)
    scaler.scale(torch.zeros((), device=device))  # makes the scale, as scaling a loss does

    def step() -> None:
        if not ours:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        scaler.step(optimizer)
        scaler.update()

    return step
