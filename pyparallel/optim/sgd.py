"""SGD: torch.optim.SGD's interface, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._checks import check_lr, check_not_negative, number
from pyparallel.optim._options import FusedOptions


class SGD(FusedOptimizer):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013), in one pass over memory.

    The same constructor, groups and state as torch.optim.SGD; see Adam for what parameters may be.
    A `step` is kept in the state only where it matters: with dampening or random rounding. A step
    moves 12 bytes per float32 parameter, 20 with momentum.
    """

    signed_keys = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            momentum: factor of the momentum buffer; 0 keeps none.
            dampening: 1 - weight of the gradient in the buffer, from the second step on.
            weight_decay: L2 penalty added to the gradient.
            nesterov: Nesterov's momentum.
            maximize: ascend instead of descend.
            foreach: accepted for torch's sake; every step is one fused pass.
            differentiable: refused when True.
            fused: accepted; see foreach.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
            RuntimeError: differentiable, or foreach and fused together.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives groups from older checkpoints the keys they lack."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("nesterov", False)
            group.setdefault("maximize", False)
            group.setdefault("foreach", None)
            group.setdefault("differentiable", False)
            group.setdefault("fused", None)

    def _all_state_keys(self) -> set[str]:
        return {"momentum_buffer"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _counts(self, group: dict[str, Any]) -> bool:
        return bool(group["dampening"] != 0 and group["momentum"] != 0)

    def _hyper(self, group: dict[str, Any]) -> core.SgdHyper:
        momentum, dampening = group["momentum"], group["dampening"]
        check_lr(group["lr"])
        check_not_negative(momentum=momentum, weight_decay=group["weight_decay"])
        if dampening != dampening:
            raise ValueError(f"Invalid dampening value: {dampening}")
        if group["nesterov"] and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        return core.SgdHyper(
            lr=number(group["lr"]),
            momentum=momentum,
            dampening=dampening,
            weight_decay=float(group["weight_decay"]),
            nesterov=group["nesterov"],
        )
