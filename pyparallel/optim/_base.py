"""FusedOptimizer: what our optimizers share: batches, precision of the state, AMP, state_dict."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import chain
from typing import Any, Generic, Literal, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from pyparallel import _tensors
from pyparallel.monitor import SPANS
from pyparallel.optim._batch import Batch, Plan, State, TableT

Master = Literal["fp32"] | None

_MASTERED = (torch.bfloat16, torch.float16)


class FusedOptimizer(Optimizer, Generic[TableT]):
    """Base of the optimizers that step all tensors of a group in one native call.

    A subclass names its float32 state (``state_keys``), makes it (``_init_state``), builds the
    native table (``_build_table``) and calls it (``_launch``). Steps are counted per parameter, on
    the parameter's device. Nothing synchronises, except that a CUDA tensor as ``lr`` is read.

    Follows the contract of torch.amp.GradScaler for optimizers that unscale by themselves:
    ``grad_scale`` divides the gradients and any ``found_inf`` other than 0 skips the step.
    """

    state_keys: tuple[str, ...] = ()
    param_dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)
    _step_supports_amp_scaling = True

    def __init__(self, params: ParamsT, defaults: dict[str, Any], *, master: Master) -> None:
        """Checks what all optimizers share and hands the rest to torch.

        Args:
            params: parameters or groups, as torch takes them.
            defaults: group defaults, with torch's keys.
            master: "fp32" keeps a float32 copy of every 16-bit parameter in the state.
        """
        if master not in (None, "fp32"):
            raise ValueError(f"master is {master!r}; it can be None or 'fp32'")
        if defaults.get("differentiable"):
            raise RuntimeError(
                f"{type(self).__name__}: differentiable=True cannot be fused; use torch.optim"
            )
        if defaults.get("fused") and defaults.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        self.master: Master = master
        self._plans: dict[int, Plan[TableT]] = {}
        self._versions: dict[Tensor, int] = {}  # of parameters with masters, after our last write
        super().__init__(params, defaults)

    def _init_state(self, param: Tensor, group: dict[str, Any], state: State) -> None:
        raise NotImplementedError

    def _build_table(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        group: dict[str, Any],
    ) -> TableT:
        raise NotImplementedError

    def _launch(self, batch: Batch[TableT], group: dict[str, Any], amp: tuple[int, int]) -> None:
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates all parameters that have gradients.

        Args:
            closure: evaluates the model again and returns the loss, as in torch.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        start = time.monotonic_ns()
        for group in self.param_groups:
            for batch in self._batches(group):
                self._refresh_masters(batch)
                self._launch(batch, group, self._amp(batch.device))
                torch.autograd.graph.increment_version(batch.params)
                self._remember_masters(batch)
        SPANS.record("optimizer", start, time.monotonic_ns())
        return loss

    def _batches(self, group: dict[str, Any]) -> list[Batch[TableT]]:
        params = group["params"]
        grads = [param.grad for param in params]
        plan = self._plans.get(id(group))
        if plan is None or not plan.renew(params, grads):
            plan = Plan(params, grads, lambda p, g: self._make_batch(p, g, group))
            self._plans[id(group)] = plan
        return plan.batches

    def _make_batch(
        self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]
    ) -> Batch[TableT]:
        if params[0].dtype not in self.param_dtypes:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in self.param_dtypes)
            raise TypeError(
                f"{type(self).__name__}: a parameter of shape {tuple(params[0].shape)} is "
                f"{params[0].dtype}; supported are {known}"
            )
        for param in params:
            self._prepare_state(param, group)
        states = [self.state[param] for param in params]
        keys = ("step", *self.state_keys, "master")
        table = self._build_table(params, grads, states, group)
        return Batch(params, grads, states, keys, table)

    def _prepare_state(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
        self._init_state(param, group, state)
        if self.master is None:
            state.pop("master", None)
        elif param.dtype in _MASTERED and "master" not in state:
            state["master"] = param.detach().to(torch.float32)
            self._versions[param] = param._version

    def _column(self, states: list[State], key: str, params: list[Tensor]) -> list[int]:
        """Addresses of one state tensor per parameter; none at all where no state has it."""
        if key not in states[0]:
            return []
        for state, param in zip(states, params, strict=True):
            value = state[key]
            if value.dtype != torch.float32 or value.device != param.device:
                raise ValueError(
                    f"state {key!r} is {value.dtype} on {value.device}, it must be float32 on "
                    f"{param.device}"
                )
            if key != "step" and value.stride() != param.stride() and value.numel() > 1:
                raise ValueError(
                    f"state {key!r} has strides {value.stride()}, its parameter {param.stride()}"
                )
        return _tensors.addresses(state[key] for state in states)

    def _refresh_masters(self, batch: Batch[TableT]) -> None:
        """A parameter written by anyone else (load_state_dict, say) brings its master along."""
        if "master" in batch.states[0]:
            for param, state in zip(batch.params, batch.states, strict=True):
                if param._version != self._versions.get(param, param._version):
                    state["master"].copy_(param)

    def _remember_masters(self, batch: Batch[TableT]) -> None:
        if "master" in batch.states[0]:
            self._versions.update((param, param._version) for param in batch.params)

    def _amp(self, device: torch.device) -> tuple[int, int]:
        """Addresses of GradScaler's scale and flag, 0 where there is none."""
        scalars = []
        for name in ("grad_scale", "found_inf"):
            value: Tensor | None = getattr(self, name, None)
            if value is not None and (value.dtype != torch.float32 or value.device != device):
                raise ValueError(
                    f"{name} is {value.dtype} on {value.device}, not float32 on {device}"
                )
            scalars.append(0 if value is None else value.data_ptr())
        return scalars[0], scalars[1]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but the state keeps its precision instead of taking the parameter's dtype."""
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, param in zip(saved, params, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor) and name in ("step", "master", *self.state_keys):
                    self.state[param][name] = self._own(value, param, scalar=name == "step")
            self._versions[param] = param._version
        self._plans.clear()

    def _own(self, value: Tensor, param: Tensor, *, scalar: bool) -> Tensor:
        if scalar:
            return value.to(param.device, torch.float32, copy=True)
        return torch.empty_like(param, dtype=torch.float32, requires_grad=False).copy_(value)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: what torch keeps, and `master`."""
        return {**super().__getstate__(), "master": self.master}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The way back of __getstate__; old or foreign states get what they lack."""
        super().__setstate__(state)
        self.__dict__.setdefault("master", None)
        self._plans = {}
        self._versions = {}
        for group in self.param_groups:
            for param in group["params"]:
                self._complete_state(param)

    def _complete_state(self, param: Tensor) -> None:
        state = cast("State", self.state.get(param, {}))
        if "step" in state and not isinstance(state["step"], Tensor):
            state["step"] = torch.tensor(
                float(state["step"]), dtype=torch.float32, device=param.device
            )
