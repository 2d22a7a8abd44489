"""NovoGrad: gradients divided by a running norm per tensor, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._checks import check_betas, check_lr, check_not_negative, number
from pyparallel.optim._measured import MeasuredOptimizer
from pyparallel.optim._options import FusedOptions


class NovoGrad(MeasuredOptimizer):
    """NovoGrad (Ginsburg et al., 2019, Algorithm 1), in two passes over memory.

    The first pass reads the gradient for its norm, the second steps: 4 + 20 = 24 bytes per float32
    parameter. The second moment, state `exp_avg_sq`, is one float64 per tensor. See Adam for what
    parameters may be; sharded DTensors are refused, their norms lie on several ranks.
    """

    signed_keys = ("exp_avg",)
    factor_key = "exp_avg_sq"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        grad_averaging: bool = False,
        maximize: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            betas: decay rates of the moment and of the squared norm.
            eps: added to the norm.
            weight_decay: times the parameter, added to the normalised gradient.
            grad_averaging: weigh what enters the moment by 1 - beta1 instead of 1.
            maximize: ascend instead of descend.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
        """
        defaults = {
            "lr": lr,
            "betas": tuple(float(beta) for beta in betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
            "maximize": maximize,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def _all_state_keys(self) -> set[str]:
        return {"exp_avg", "exp_avg_sq"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg",)

    def _hyper(self, group: dict[str, Any]) -> core.NovogradHyper:
        check_lr(group["lr"])
        check_not_negative(eps=group["eps"])
        check_betas(group["betas"])
        check_not_negative(weight_decay=group["weight_decay"])
        beta1, beta2 = group["betas"]
        return core.NovogradHyper(
            lr=number(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            grad_averaging=group["grad_averaging"],
        )
