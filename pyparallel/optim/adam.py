"""Adam: torch.optim.Adam's interface, one native call per group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer, Master
from pyparallel.optim._batch import Batch, State
from pyparallel.optim._state import column


def check_adam_arguments(
    lr: float | Tensor,
    betas: tuple[float | Tensor, float | Tensor],
    eps: float,
    weight_decay: float,
) -> None:
    """Refuses what torch refuses, and NaN.

    Raises:
        ValueError: with the value.
    """
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    if not 0.0 <= lr < float("inf"):
        raise ValueError(f"Invalid learning rate: {lr}")
    if not eps >= 0.0:
        raise ValueError(f"Invalid epsilon value: {eps}")
    for index, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if not weight_decay >= 0.0:
        raise ValueError(f"Invalid weight_decay value: {weight_decay}")


class Adam(FusedOptimizer[core.AdamTable]):
    """Adam (Kingma and Ba, 2015, Algorithm 1), in one pass over memory.

    The same constructor, groups and state as torch.optim.Adam, so checkpoints cross both ways.
    Parameters are float32, bfloat16 or float16 on the CPU or CUDA, in any dense layout; moments are
    float32. A step moves 28 bytes per float32 parameter, and 28 per 16-bit parameter with a master.
    """

    state_keys = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    table_keys = ("amsgrad",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        master: Master = None,
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            betas: decay rates of the two moments.
            eps: added to the denominator after the bias correction.
            weight_decay: L2 penalty added to the gradient.
            amsgrad: use the maximum of all second moments (Reddi et al., 2018).
            foreach: accepted for torch's sake; every step is one fused pass.
            maximize: ascend instead of descend.
            capturable: accepted; the step never synchronises.
            differentiable: refused when True.
            fused: accepted; see foreach.
            decoupled_weight_decay: multiply the parameter by 1 - lr * weight_decay instead (AdamW).
            master: "fp32" keeps a float32 copy of 16-bit parameters and updates that.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
            RuntimeError: differentiable, or foreach and fused together.
        """
        check_adam_arguments(lr, betas, eps, weight_decay)
        defaults = {
            "lr": lr,
            "betas": tuple(float(beta) for beta in betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, master=master)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives groups from older checkpoints the keys they lack."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("amsgrad", False)
            group.setdefault("maximize", False)
            group.setdefault("foreach", None)
            group.setdefault("capturable", False)
            group.setdefault("differentiable", False)
            group.setdefault("fused", None)
            group.setdefault("decoupled_weight_decay", False)

    def _keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self.state_keys if group["amsgrad"] else self.state_keys[:2]

    def _init_state(self, param: Tensor, group: dict[str, Any], state: State) -> None:
        for key in self._keys(group):
            if key not in state:
                state[key] = torch.zeros_like(param, dtype=torch.float32, requires_grad=False)

    def _build_table(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        group: dict[str, Any],
    ) -> core.AdamTable:
        columns = {key: column(states, key, params) for key in ("step", *self._keys(group))}
        return core.AdamTable(
            _tensors.addresses(params),
            _tensors.addresses(grads),
            columns["exp_avg"],
            columns["exp_avg_sq"],
            columns.get("max_exp_avg_sq", []),
            column(states, "master", params),
            columns["step"],
            [param.numel() for param in params],
            _tensors.dtype_code(params[0].dtype, what="the parameter"),
            _tensors.dtype_code(grads[0].dtype, what="the gradient"),
        )

    def _hyper(self, group: dict[str, Any]) -> dict[str, Any]:
        lr = float(group["lr"])
        beta1, beta2 = group["betas"]
        check_adam_arguments(lr, (beta1, beta2), group["eps"], group["weight_decay"])
        return {
            "lr": lr,
            "beta1": beta1,
            "beta2": beta2,
            "eps": group["eps"],
            "weight_decay": group["weight_decay"],
            "decoupled": group["decoupled_weight_decay"],
            "maximize": group["maximize"],
        }

    def _launch(
        self, batch: Batch[core.AdamTable], hyper: dict[str, Any], amp: tuple[int, int]
    ) -> None:
        device, stream = _tensors.device_and_stream(batch.device)
        batch.table.step(
            **hyper,
            grad_scale=amp[0],
            found_inf=amp[1],
            device=device,
            stream=stream,
            threads=torch.get_num_threads(),
        )
