"""Adam: torch.optim.Adam's interface, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._checks import check_betas, check_lr, check_not_negative, number
from pyparallel.optim._options import FusedOptions

_KEYS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")


class Adam(FusedOptimizer):
    """Adam (Kingma and Ba, 2015, Algorithm 1), in one pass over memory.

    The same constructor, groups and state as torch.optim.Adam, so checkpoints cross both ways.
    Parameters are float64, float32, bfloat16 or float16 on the CPU or CUDA, in any dense layout.
    A step moves 28 bytes per float32 parameter, and 28 per 16-bit parameter with an fp32 master.
    """

    signed_keys = ("exp_avg",)

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
        **options: Unpack[FusedOptions],
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
            capturable: accepted; the step never synchronises. In a CUDA graph only a learning rate
                that is a CUDA tensor can change later.
            differentiable: refused when True.
            fused: accepted; see foreach.
            decoupled_weight_decay: multiply the parameter by 1 - lr * weight_decay instead (AdamW).
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
            RuntimeError: differentiable, or foreach and fused together.
        """
        check_betas(betas)
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
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

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

    def _all_state_keys(self) -> set[str]:
        return set(_KEYS)

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return _KEYS if group["amsgrad"] else _KEYS[:2]

    def _hyper(self, group: dict[str, Any]) -> core.AdamHyper:
        check_lr(group["lr"])
        check_not_negative(eps=group["eps"])
        check_betas(group["betas"])
        check_not_negative(weight_decay=group["weight_decay"])
        beta1, beta2 = group["betas"]
        return core.AdamHyper(
            lr=number(group["lr"]),
            beta1=beta1,
            beta2=beta2,
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            decoupled=group["decoupled_weight_decay"],
            amsgrad=group["amsgrad"],
        )
