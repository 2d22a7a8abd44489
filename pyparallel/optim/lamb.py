"""LAMB: Adam's direction with a trust ratio per tensor, one native call per group."""

from __future__ import annotations

import math
from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._checks import check_betas, check_lr, check_not_negative, number
from pyparallel.optim._measured import MeasuredOptimizer
from pyparallel.optim._options import FusedOptions


class LAMB(MeasuredOptimizer):
    """LAMB (You et al., 2020, Algorithm 2), in two passes over memory.

    The first pass moves the moments and sums parameter and direction, the second computes the
    direction again and applies it: 24 + 16 = 40 bytes per float32 parameter. See Adam for what
    parameters may be; sharded DTensors are refused, their norms lie on several ranks.
    """

    signed_keys = ("exp_avg",)

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        bias_correction: bool = True,
        trust_clip: float | None = None,
        always_adapt: bool = False,
        maximize: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            betas: decay rates of the two moments.
            eps: added to the denominator after the bias correction.
            weight_decay: times the parameter, added to Adam's direction.
            bias_correction: divide the moments by 1 - beta^step.
            trust_clip: the largest trust ratio; None for no bound.
            always_adapt: use the trust ratio in groups without weight decay too; there it is 1
                otherwise, as for biases and the scales of norms.
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
            "bias_correction": bias_correction,
            "trust_clip": trust_clip,
            "always_adapt": always_adapt,
            "maximize": maximize,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def _all_state_keys(self) -> set[str]:
        return {"exp_avg", "exp_avg_sq"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _hyper(self, group: dict[str, Any]) -> core.LambHyper:
        check_lr(group["lr"])
        check_not_negative(eps=group["eps"])
        check_betas(group["betas"])
        check_not_negative(weight_decay=group["weight_decay"])
        clip = group["trust_clip"]
        if clip is not None and not clip > 0.0:
            raise ValueError(f"Invalid trust_clip value: {clip}")
        beta1, beta2 = group["betas"]
        return core.LambHyper(
            lr=number(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            trust_clip=math.inf if clip is None else clip,
            bias_correction=group["bias_correction"],
            adapt=group["always_adapt"] or group["weight_decay"] != 0,
        )
