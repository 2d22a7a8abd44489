"""Muon: torch.optim.Muon's interface; matrices of equal shape share their matrix products."""

from __future__ import annotations

import math
from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer, Scalars
from pyparallel.optim._batch import Batch
from pyparallel.optim._checks import check_betas, check_lr, check_not_negative, number
from pyparallel.optim._measured import complete_groups, refuse_shards
from pyparallel.optim._newton_schulz import Stacks
from pyparallel.optim._options import FusedOptions

_ADAM_KEYS = ("exp_avg", "exp_avg_sq")


class Muon(FusedOptimizer):
    """Muon (Jordan et al., 2024) as torch.optim.Muon writes it, in stacks of equal shape.

    ::

        gradients, momentum -> one native call -> [n, rows, columns] bfloat16 -> Newton-Schulz
        parameters          <- one native call <- [n, rows, columns] bfloat16 <-

    The same constructor, groups and state as torch's; momentum of 16-bit parameters is float32.
    A group with ``use_muon=False`` is stepped by AdamW, with `betas` and `eps` of its own and the
    constructor's `lr` and `weight_decay` where it names none. Beside the matrix products a step
    moves 26 bytes per float32 parameter and needs 2 per parameter for the stacks while it runs.
    Parameters are dense in any order; sharded DTensors are refused: a matrix must be whole.
    """

    signed_keys = ("momentum_buffer", "exp_avg")
    completes_groups = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        maximize: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            weight_decay: the parameter is multiplied by 1 - lr * weight_decay.
            momentum: decay rate of the momentum buffer.
            nesterov: Nesterov's momentum.
            ns_coefficients: a, b, c of the Newton-Schulz iteration.
            eps: the smallest norm that a matrix is divided by.
            ns_steps: iterations, fewer than 100.
            adjust_lr_fn: what a shape [A, B] makes of lr: "original" or None: times
                sqrt(max(1, A / B)); "match_rms_adamw": times 0.2 * sqrt(max(A, B)).
            maximize: ascend instead of descend; in the groups only if True, since torch has no such
                key.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN, or a parameter that is no matrix in a
                group without use_muon=False.
        """
        defaults: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        if maximize:
            defaults["maximize"] = True
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives groups from torch's checkpoints the keys they lack."""
        super().__setstate__(state)
        complete_groups(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's; refuses what is no matrix before anything has changed."""
        if not param_group.get("use_muon", True):
            param_group.setdefault("betas", (0.9, 0.999))
            param_group.setdefault("eps", 1e-8)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._hyper(group)
            _check_matrices(group, len(self.param_groups) - 1)
        except ValueError:
            self.param_groups.pop()
            raise

    def _all_state_keys(self) -> set[str]:
        return {"momentum_buffer", *_ADAM_KEYS}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group.get("use_muon", True) else _ADAM_KEYS

    def _counts(self, group: dict[str, Any]) -> bool:
        return not group.get("use_muon", True)

    def _hyper(self, group: dict[str, Any]) -> core.Hyper:
        if not group.get("use_muon", True):
            return _adamw_hyper(group)
        _check(group)
        return _muon_hyper(group, apply=False)

    def _make_batch(
        self,
        owners: list[Tensor],
        params: list[Tensor],
        grads: list[Tensor],
        group: dict[str, Any],
    ) -> Batch:
        if group.get("use_muon", True):
            refuse_shards(self, owners)
        return super()._make_batch(owners, params, grads, group)

    def _launch(
        self, batch: Batch, group: dict[str, Any], hyper: core.Hyper, scalars: Scalars
    ) -> None:
        if not isinstance(hyper, core.MuonHyper):
            return super()._launch(batch, group, hyper, scalars)
        stacks = Stacks(batch.params)
        control = self._control(batch, group, scalars)
        self._step_table(self._momentum_table(batch, stacks), hyper, control, batch.device)
        stacks.orthogonalise(group["ns_coefficients"], steps=group["ns_steps"], eps=group["eps"])
        ratios = _lr_ratios(batch.params, group["adjust_lr_fn"])
        table = self._apply_table(batch, stacks, ratios)
        kept: Scalars = {name: scalars.get(name) for name in ("found_inf", "lr")}
        control = self._control(batch, {}, kept, advance=False)
        return self._step_table(table, _muon_hyper(group, apply=True), control, batch.device)

    def _momentum_table(self, batch: Batch, stacks: Stacks) -> core.StepTable:
        buffers = [_tensors.local(state["momentum_buffer"]) for state in batch.states]
        return core.StepTable(
            params=_tensors.addresses(stacks.matrices),
            grads=batch.grad_addresses,
            states=[_tensors.addresses(buffers)],
            extras=[],
            steps=self._steps(batch),
            factors=[],
            numels=batch.numels,
            param_dtype=_tensors.dtype_code(stacks.dtype, what="the stack"),
            grad_dtype=_tensors.dtype_code(batch.grad_dtype, what="the gradient"),
            state_dtype=_tensors.dtype_code(buffers[0].dtype, what="the state"),
            extra=core.Extra.none,
        )

    def _apply_table(self, batch: Batch, stacks: Stacks, ratios: list[Tensor]) -> core.StepTable:
        dtype = batch.params[0].dtype
        key = self.options.extra_key(dtype)
        extras = [] if key is None else [_tensors.local(state[key]) for state in batch.states]
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return core.StepTable(
            params=_tensors.addresses(batch.params),
            grads=_tensors.addresses(stacks.matrices),
            states=[],
            extras=_tensors.addresses(extras),
            steps=self._steps(batch),
            factors=_tensors.addresses(ratios),
            numels=batch.numels,
            param_dtype=_tensors.dtype_code(dtype, what="the parameter"),
            grad_dtype=_tensors.dtype_code(stacks.dtype, what="the stack"),
            state_dtype=_tensors.dtype_code(wide, what="the state"),
            extra=self.options.extra(dtype),
        )

    def _steps(self, batch: Batch) -> list[int]:
        """Counted only where something is rounded at random."""
        if not self.options.is_random:
            return []
        return [state["step"].data_ptr() for state in batch.states]


def _muon_hyper(group: dict[str, Any], *, apply: bool) -> core.MuonHyper:
    momentum, decay = group["momentum"], group["weight_decay"]
    return core.MuonHyper(number(group["lr"]), momentum, decay, group["nesterov"], apply)


def _adamw_hyper(group: dict[str, Any]) -> core.AdamHyper:
    check_lr(group["lr"])
    check_not_negative(eps=group["eps"])
    check_betas(group["betas"])
    check_not_negative(weight_decay=group["weight_decay"])
    beta1, beta2 = group["betas"]
    lr, eps, decay = number(group["lr"]), group["eps"], group["weight_decay"]
    return core.AdamHyper(lr, beta1, beta2, eps, decay, decoupled=True, amsgrad=False)


def _check(group: dict[str, Any]) -> None:
    check_lr(group["lr"], text="Learning rate should be >= 0 but is")
    if not group["momentum"] >= 0.0:
        raise ValueError(f"momentum should be >= 0 but is: {group['momentum']}")
    if not group["weight_decay"] >= 0.0:
        raise ValueError(f"weight decay should be >= 0 but is: {group['weight_decay']}")
    if group["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    check_not_negative(eps=group["eps"])
    if len(group["ns_coefficients"]) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    if not 0 <= group["ns_steps"] < 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")


def _check_matrices(group: dict[str, Any], place: int) -> None:
    if not group.get("use_muon", True):
        return
    for index, param in enumerate(group["params"]):
        if param.ndim != 2:
            raise ValueError(
                "Muon only supports 2D parameters whereas we found a parameter with size: "
                f"{param.size()}, parameter {index} of group {place}; put it into a group with "
                "use_muon=False"
            )


def _lr_ratios(params: list[Tensor], adjust_lr_fn: str | None) -> list[Tensor]:
    """What the shape of each parameter makes of the learning rate, on its device."""
    ratios = [_lr_ratio(param.shape, adjust_lr_fn) for param in params]
    device = params[0].device  # filled there, not copied there: nothing waits
    found = {r: torch.full((), r, dtype=torch.float64, device=device) for r in set(ratios)}
    return [found[ratio] for ratio in ratios]


def _lr_ratio(shape: torch.Size, adjust_lr_fn: str | None) -> float:
    rows, columns = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / max(columns, 1)))
