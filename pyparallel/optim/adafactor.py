"""Adafactor: torch.optim.Adafactor's interface; second moments as rows and columns."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.optim._base import Scalars
from pyparallel.optim._batch import Batch, State
from pyparallel.optim._checks import check_lr, number
from pyparallel.optim._measured import MeasuredOptimizer
from pyparallel.optim._options import FusedOptions

_VARIANCES = ("row_var", "col_var", "variance")


class Adafactor(MeasuredOptimizer):
    """Adafactor (Shazeer and Stern, 2018) as torch.optim.Adafactor writes it, without its waits.

    The same constructor, groups and state as torch's, but states of 16-bit parameters are float32
    and a group's first parameter does not set eps[0] for those of other dtypes. Row and column sums
    are torch's, the rest is one native call: 8 + 4 + 12 + 16 = 40 bytes per float32 parameter, and
    while a step runs 4 for the estimate. The host never waits for a norm. See Adam for what
    parameters may be; sharded DTensors are refused, and state_dtype other than "fp32".
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element; a step uses at most 1 / sqrt(step).
            beta2_decay: the squared gradient enters its mean with step ** beta2_decay.
            eps: the square root of the estimate is at least eps[0] (None: the epsilon of the
                parameter's dtype); the parameter's root mean square counts as at least eps[1].
            d: the largest root mean square of an update.
            weight_decay: the parameter is multiplied by 1 - lr * weight_decay.
            foreach: accepted for torch's sake.
            maximize: ascend instead of descend.
            **options: master, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN, or a state_dtype other than "fp32".
        """
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        self._hyper(defaults)
        if options.get("state_dtype", "fp32") != "fp32":
            raise ValueError(
                f"state_dtype={options['state_dtype']!r}: the states of Adafactor are rows and "
                "columns, small already; they are kept in float32"
            )
        super().__init__(params, defaults, **options)

    def _all_state_keys(self) -> set[str]:
        return set(_VARIANCES)

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ()  # none that a kernel keeps

    def _state_shape(self, param: Tensor, key: str) -> torch.Size:
        shape = list(param.shape)
        if key in ("row_var", "col_var") and len(shape) > 1:
            shape[-1 if key == "row_var" else -2] = 1
        return torch.Size(shape)

    def _own(self, param: Tensor, name: str, value: Tensor) -> Tensor:
        if name in ("row_var", "col_var"):
            return value.to(param.device, self.options.dtype_of_states(param.dtype), copy=True)
        return super()._own(param, name, value)

    def _prepare_state(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        loaded = any(key in state for key in _VARIANCES)
        dtype = self.options.dtype_of_states(param.dtype)
        if "step" not in state:  # the first key, as torch has it
            device = _tensors.local(param).device
            state["step"] = torch.full((), float(loaded), dtype=torch.float32, device=device)
        if not loaded and param.dim() > 1:
            for key in ("row_var", "col_var"):
                state[key] = param.new_zeros(self._state_shape(param, key), dtype=dtype)
        elif not loaded:
            state["variance"] = torch.zeros_like(param, dtype=dtype, requires_grad=False)
        super()._prepare_state(param, group)

    def _hyper(self, group: dict[str, Any]) -> core.AdafactorHyper:
        lr, (eps1, eps2) = group["lr"], group["eps"]
        check_lr(lr, text="Learning rate should be >= 0 but is")
        if not group["beta2_decay"] <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {group['beta2_decay']}")
        if eps1 is not None and not eps1 >= 0.0:
            raise ValueError(f"epsilon1 should be >= 0 but is: {eps1}")
        if not eps2 >= 0.0:
            raise ValueError(f"epsilon2 should be >= 0 but is: {eps2}")
        if not group["d"] >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {group['d']}")
        if not group["weight_decay"] >= 0.0:
            raise ValueError(f"weight_decay should be >= 0 but is: {group['weight_decay']}")
        return self._hyper_of(group, 0.0)

    def _hyper_of(self, group: dict[str, Any], eps1: float) -> core.AdafactorHyper:
        return core.AdafactorHyper(
            lr=number(group["lr"]),
            eps1=eps1,
            eps2=group["eps"][1],
            d=group["d"],
            weight_decay=group["weight_decay"],
        )

    def _launch(
        self, batch: Batch, group: dict[str, Any], hyper: core.Hyper, scalars: Scalars
    ) -> None:
        dtype = batch.params[0].dtype
        eps1 = torch.finfo(dtype).eps if group["eps"][0] is None else group["eps"][0]
        scale = _squared_scale(scalars)
        estimates = [
            _estimate(
                param, grad, state, group["beta2_decay"], eps1, scale, scalars.get("found_inf")
            )
            for param, grad, state in zip(batch.params, batch.grads, batch.states, strict=True)
        ]
        batch.table.set_states(0, _tensors.addresses(estimates))
        super()._launch(batch, group, self._hyper_of(group, eps1), scalars)


def _squared_scale(scalars: Scalars) -> Tensor | None:
    """What squares of gradients are multiplied by: unscaled and clipped."""
    scale, clip = scalars.get("grad_scale"), scalars.get("clip")
    if scale is None:
        return None if clip is None else clip.square()
    return (1.0 / scale if clip is None else clip / scale).square()


def _estimate(
    param: Tensor,
    grad: Tensor,
    state: State,
    beta2_decay: float,
    eps1: float,
    scale: Tensor | None,
    found_inf: Tensor | None,
) -> Tensor:
    """Moves the second moments and gives their estimate per element, in the parameter's order."""
    like = state.get("variance", state.get("row_var"))
    assert isinstance(like, Tensor)
    if param.numel() == 0:
        return torch.empty_like(param, dtype=like.dtype)
    weight = (state["step"].double() + 1).pow(beta2_decay).to(like.dtype)

    def move(key: str, squares: Tensor) -> Tensor:
        moment: Tensor = state[key]
        moved = moment.lerp(squares if scale is None else squares * scale, weight)
        moment.copy_(moved if found_inf is None else torch.where(found_inf != 0, moment, moved))
        return moment

    if param.dim() < 2:
        return move("variance", grad.to(like.dtype).square())
    row = move("row_var", _mean_square(grad, -1, like.dtype))
    column = move("col_var", _mean_square(grad, -2, like.dtype))
    row = row / row.mean(dim=-2, keepdim=True).clamp_(min=eps1)
    estimate = torch.empty_like(param, dtype=like.dtype, requires_grad=False)
    return torch.mul(row, column, out=estimate)


def _mean_square(grad: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(grad, dim=dim, keepdim=True, dtype=dtype)
    return norm.square_().div_(grad.size(dim))
