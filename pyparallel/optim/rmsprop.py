"""RMSprop: torch.optim.RMSprop's interface, one native call per group."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel._native import core
from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._checks import check_lr, check_not_negative, number
from pyparallel.optim._options import FusedOptions


class RMSprop(FusedOptimizer):
    """RMSprop (Hinton, 2012), plain or centred (Graves, 2013), in one pass over memory.

    The same constructor, groups and state as torch.optim.RMSprop; see Adam for what parameters may
    be. A step moves 20 bytes per float32 parameter, 8 more each for momentum and centring.
    """

    signed_keys = ("grad_avg", "momentum_buffer")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[FusedOptions],
    ) -> None:
        """Makes the optimizer; the state is made at a parameter's first step.

        Args:
            params: parameters or groups, as torch takes them.
            lr: learning rate, or a tensor of one element.
            alpha: decay rate of the averages.
            eps: added to the root.
            weight_decay: L2 penalty added to the gradient.
            momentum: factor of the momentum buffer; 0 keeps none.
            centered: divide by the root of the variance instead of the mean square.
            capturable: accepted; see Adam.
            foreach: accepted for torch's sake; every step is one fused pass.
            maximize: ascend instead of descend.
            differentiable: refused when True.
            **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

        Raises:
            ValueError: a hyperparameter out of range or NaN.
            RuntimeError: differentiable.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        self._hyper(defaults)
        super().__init__(params, defaults, **options)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives groups from older checkpoints the keys they lack."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("momentum", 0)
            group.setdefault("centered", False)
            group.setdefault("foreach", None)
            group.setdefault("maximize", False)
            group.setdefault("differentiable", False)
            group.setdefault("capturable", False)

    def _all_state_keys(self) -> set[str]:
        return {"square_avg", "grad_avg", "momentum_buffer"}

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        centered = ("grad_avg",) if group["centered"] else ()
        momentum = ("momentum_buffer",) if group["momentum"] != 0 else ()
        return ("square_avg", *centered, *momentum)

    def _hyper(self, group: dict[str, Any]) -> core.RmspropHyper:
        check_lr(group["lr"])
        names = ("eps", "momentum", "weight_decay", "alpha")
        check_not_negative(**{name: group[name] for name in names})
        return core.RmspropHyper(
            lr=number(group["lr"]),
            alpha=group["alpha"],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            centered=group["centered"],
        )
