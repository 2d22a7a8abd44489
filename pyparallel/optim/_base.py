"""FusedOptimizer: what our optimizers share: batches, precision of the state, AMP, state_dict."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, Literal, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from pyparallel.monitor import SPANS
from pyparallel.optim._batch import Batch, Plan, State, TableT, identical
from pyparallel.optim._state import follow, own_copy, state_tensors

Master = Literal["fp32"] | None

_MASTERED = (torch.bfloat16, torch.float16)


class FusedOptimizer(Optimizer, Generic[TableT]):
    """Base of the optimizers that step all tensors of a group in one native call.

    A subclass names its float32 state (``state_keys``) and the group keys that shape the native
    table (``table_keys``), makes the state (``_init_state``), reads and checks a group's scalars
    (``_hyper``), builds the table (``_build_table``) and calls it (``_launch``). Steps are counted
    per parameter, on the parameter's device. Nothing synchronises, except that a CUDA tensor as
    ``lr`` is read.

    Follows the contract of torch.amp.GradScaler for optimizers that unscale by themselves:
    ``grad_scale`` divides the gradients and any ``found_inf`` other than 0 skips the step.
    """

    state_keys: tuple[str, ...] = ()
    table_keys: tuple[str, ...] = ()
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
        self._plans: dict[int, tuple[list[Any], Plan[TableT]]] = {}  # with the table_keys' values
        self._states: list[State] = []  # as of the last step
        self._versions: dict[Tensor, int] = {}  # of parameters with masters, after our last write
        super().__init__(params, defaults)

    def _keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The state keys that a group's options call for."""
        return self.state_keys

    def _init_state(self, param: Tensor, group: dict[str, Any], state: State) -> None:
        raise NotImplementedError

    def _hyper(self, group: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _build_table(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        group: dict[str, Any],
    ) -> TableT:
        raise NotImplementedError

    def _launch(self, batch: Batch[TableT], hyper: dict[str, Any], amp: tuple[int, int]) -> None:
        raise NotImplementedError

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Updates all parameters that have gradients, or none of them if it raises.

        Args:
            closure: evaluates the model again and returns the loss, as in torch.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        start = time.monotonic_ns()
        self._forget_replaced_states()
        hypers = [self._hyper(group) for group in self.param_groups]
        launches = [
            (batch, hyper, self._amp(batch.device))
            for group, hyper in zip(self.param_groups, hypers, strict=True)
            for batch in self._batches(group)
        ]
        self._states = list(self.state.values())
        for batch, hyper, amp in launches:
            self._refresh_masters(batch)
            # Before the launch, while the parameters' records are still in the cache.
            torch.autograd.graph.increment_version(batch.params)
            self._launch(batch, hyper, amp)
            self._remember_masters(batch)
        SPANS.record("optimizer", start, time.monotonic_ns())
        return loss

    def _forget_replaced_states(self) -> None:
        """Plans point into the states: when somebody put other ones in `state`, they are void."""
        states = self.state.values()
        if len(states) != len(self._states) or not identical(states, self._states):
            self._plans.clear()

    def _batches(self, group: dict[str, Any]) -> list[Batch[TableT]]:
        params = group["params"]
        grads = [param.grad for param in params]
        options = [group[key] for key in self.table_keys]
        known, plan = self._plans.get(id(group), (None, None))
        if plan is None or known != options or not plan.renew(params, grads):
            plan = Plan(params, grads, lambda p, g: self._make_batch(p, g, group))
            self._plans[id(group)] = (options, plan)
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
            self._versions.pop(param, None)  # its memory may be another one: look at the master
        states = [self.state[param] for param in params]
        keys = ("step", *self._keys(group), "master")
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

    def _refresh_masters(self, batch: Batch[TableT]) -> None:
        """A parameter written by anyone else (load_state_dict, say) brings its master along."""
        if "master" in batch.states[0]:
            for param, state in zip(batch.params, batch.states, strict=True):
                if param._version != self._versions.get(param):
                    follow(state["master"], param)

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
        """As torch's, but the state keeps its precision instead of taking the parameter's dtype.

        Raises:
            ValueError: a state of another shape than its parameter; nothing is loaded then.
        """
        precise: list[tuple[Tensor, str, Tensor]] = []  # as given, before torch casts
        names = {"step", "master", *self.state_keys}

        def check(_: Optimizer, given: dict[str, Any]) -> None:  # after all other hooks
            precise.extend(state_tensors(given, self.param_groups, names))

        def restore(_: Optimizer) -> None:  # before all other hooks
            for param, name, value in precise:
                self.state[param][name] = own_copy(value, param, scalar=name == "step")

        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: what torch keeps, and `master`."""
        return {**super().__getstate__(), "master": self.master}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The way back of __getstate__; old or foreign states get what they lack."""
        super().__setstate__(state)
        self.__dict__.setdefault("master", None)
        self._plans = {}
        self._states = []
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
