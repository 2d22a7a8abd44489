"""LARS: SGD with a learning rate per tensor, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._checks import check_lr, check_not_negative, number
from pyparallel.optim._measured import MeasuredOptimizer
from pyparallel.optim._options import FusedOptions


class LARS(MeasuredOptimizer):
    """LARS (You, Gitman, Ginsburg, 2017, Algorithm 1), in two passes over memory.

    The first pass sums parameter and gradient, the second steps: 8 + 12 = 20 bytes per float32
    parameter, 28 with momentum. The learning rate stands outside of the momentum, as in
    torch.optim.SGD: that differs from the paper only in the step where the rate changes. See Adam
    for what parameters may be; sharded DTensors are refused, their norms lie on several ranks.
    """

    signed_keys = ("momentum_buffer",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        trust_coefficient: float | None = 0.001,
        eps: float = 1e-8,
        maximize: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: global learning rate, or a tensor of one element.
            momentum: factor of the momentum buffer; 0 keeps none.
            dampening: 1 - weight of the change in the buffer, from the second step on.
            weight_decay: L2 penalty added to the gradient.
            nesterov: Nesterov's momentum.
            trust_coefficient: eta of the paper: a tensor's own rate is eta * |param| / (|grad| +
                weight_decay * |param| + eps), or 1 where a norm is 0. None: 1 everywhere, which is
                SGD, for groups of biases and scales.
            eps: see trust_coefficient.
            maximize: ascend instead of descend.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "maximize": maximize,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def _all_state_keys(self) -> set[str]:
        return {"momentum_buffer"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _counts(self, group: dict[str, Any]) -> bool:
        return bool(group["dampening"] != 0 and group["momentum"] != 0)

    def _hyper(self, group: dict[str, Any]) -> core.LarsHyper:
        momentum, dampening = group["momentum"], group["dampening"]
        trust = group["trust_coefficient"]
        check_lr(group["lr"])
        check_not_negative(momentum=momentum, weight_decay=group["weight_decay"], eps=group["eps"])
        check_not_negative(trust_coefficient=0.0 if trust is None else trust)
        if dampening != dampening:
            raise ValueError(f"Invalid dampening value: {dampening}")
        if group["nesterov"] and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        return core.LarsHyper(
            lr=number(group["lr"]),
            momentum=momentum,
            dampening=dampening,
            weight_decay=group["weight_decay"],
            trust_coefficient=trust or 0.0,
            eps=group["eps"],
            nesterov=group["nesterov"],
            adapt=trust is not None,
        )
