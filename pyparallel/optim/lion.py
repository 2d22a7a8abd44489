"""Lion: the sign of a momentum, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._checks import check_betas, check_lr, check_not_negative, number
from pyparallel.optim._options import FusedOptions


class Lion(FusedOptimizer):
    """Lion (Chen et al., 2023, Algorithm 2) with decoupled weight decay, in one pass over memory.

    See Adam for what parameters may be. A step moves 20 bytes per float32 parameter.
    """

    signed_keys = ("exp_avg",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element: every parameter moves by it.
            betas: decay rates of the momentum, as seen by the step and as kept.
            weight_decay: the parameter is multiplied by 1 - lr * weight_decay.
            maximize: ascend instead of descend.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
        """
        defaults = {
            "lr": lr,
            "betas": tuple(float(beta) for beta in betas),
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def _all_state_keys(self) -> set[str]:
        return {"exp_avg"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def _counts(self, group: dict[str, Any]) -> bool:
        return False

    def _hyper(self, group: dict[str, Any]) -> core.LionHyper:
        check_lr(group["lr"])
        check_betas(group["betas"])
        check_not_negative(weight_decay=group["weight_decay"])
        beta1, beta2 = group["betas"]
        return core.LionHyper(
            lr=number(group["lr"]), beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"]
        )
