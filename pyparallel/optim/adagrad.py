"""Adagrad: torch.optim.Adagrad's interface, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._checks import check_lr, check_not_negative, number
from pyparallel.optim._options import FusedOptions


class Adagrad(FusedOptimizer):
    """Adagrad (Duchi, Hazan and Singer, 2011), in one pass over memory.

    The same constructor, groups and state as torch.optim.Adagrad; see Adam for what parameters may
    be. A step moves 20 bytes per float32 parameter.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer and, as torch does, the state of all parameters.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            lr_decay: the rate of step t is lr / (1 + (t - 1) * lr_decay).
            weight_decay: L2 penalty added to the gradient.
            initial_accumulator_value: where the sums of squares start.
            eps: added to the root of the sum.
            foreach: accepted for torch's sake; every step is one fused pass.
            maximize: ascend instead of descend.
            differentiable: refused when True.
            fused: accepted; see foreach.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
            RuntimeError: differentiable, or foreach and fused together.
        """
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)
        for group in self.param_groups:
            for param in group["params"]:
                self._prepare_state(param, group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives groups from older checkpoints the keys they lack."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)
            group.setdefault("differentiable", False)
            group.setdefault("fused", None)

    def share_memory(self) -> None:
        """Moves the sums to shared memory, as torch's does."""
        for state in self.state.values():
            state["sum"].share_memory_()

    def _all_state_keys(self) -> set[str]:
        return {"sum"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("sum",)

    def _first_value(self, group: dict[str, Any]) -> float:
        return float(group["initial_accumulator_value"])

    def _hyper(self, group: dict[str, Any]) -> core.AdagradHyper:
        check_lr(group["lr"])
        names = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        check_not_negative(**{name: group[name] for name in names})
        return core.AdagradHyper(
            lr=number(group["lr"]),
            lr_decay=group["lr_decay"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
        )
