"""FusedOptimizer: what our optimizers share: plans, native calls, AMP, clipping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Unpack, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.monitor import SPANS
from pyparallel.optim._batch import Batch, Plan, State, identical
from pyparallel.optim._checkpoint import EXTRA_DTYPES, CheckpointedOptimizer
from pyparallel.optim._norm import Clip, clip_of, sum_of_squares_of
from pyparallel.optim._options import FusedOptions, Options
from pyparallel.optim._overlap import check_apart
from pyparallel.optim._state import column, follow, new_state

Scalars = dict[str, Tensor | None]

_PARAM_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class FusedOptimizer(CheckpointedOptimizer):
    """Base of the optimizers that step all tensors of a group in one native call.

    A subclass names its states (``_state_keys``, those that may be negative in ``signed_keys``) and
    reads and checks a group's hyperparameters (``_hyper``). Steps are counted per parameter, on
    its device. Nothing synchronises, except that a tensor as ``lr`` is checked once on the CPU.

    Follows the contract of torch.amp.GradScaler for optimizers that unscale by themselves:
    ``grad_scale`` divides the gradients and any ``found_inf`` other than 0 skips the step.

    Attributes:
        options: how parameters and states are kept; see Options.
        last_grad_norm: with ``max_norm``, the norm of the last step's gradients before clipping: a
            float32 scalar on their device. None before the first step.
    """

    factor_key: str | None = None  # the state that holds the rule's factor of each tensor
    _step_supports_amp_scaling = True

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], **fused: Unpack[FusedOptions]
    ) -> None:
        """Checks what all optimizers share and hands the rest to torch.

        Args:
            params: parameters or groups, as torch takes them.
            defaults: group defaults, with torch's keys.
            **fused: see Options.
        """
        self.options = Options(**fused)
        if defaults.get("differentiable"):
            raise RuntimeError(
                f"{type(self).__name__}: differentiable=True cannot be fused; use torch.optim"
            )
        if defaults.get("fused") and defaults.get("foreach"):
            raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
        self.last_grad_norm: Tensor | None = None
        self._forget()
        super().__init__(params, defaults)

    def _forget(self) -> None:
        self._plans: dict[int, tuple[tuple[str, ...], Plan]] = {}  # with the group's state keys
        self._states: list[State] = []  # as of the last step
        self._versions: dict[Tensor, int] = {}  # of parameters with masters, after our last write
        self._apart = False  # whether the plans' parameters were found not to overlap
        self._read: Tensor | None = None  # what read_gradients() found for the next step

    def _state_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The states that a group's hyperparameters call for, in the kernel's order."""
        raise NotImplementedError

    def _hyper(self, group: dict[str, Any]) -> core.Hyper:
        """A group's hyperparameters, checked."""
        raise NotImplementedError

    def _counts(self, group: dict[str, Any]) -> bool:
        """Whether the group's parameters keep a `step`."""
        return True

    def _first_value(self, group: dict[str, Any]) -> float:
        """What new states are filled with."""
        return 0.0

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
            (batch, hyper, group)
            for group, hyper in zip(self.param_groups, hypers, strict=True)
            for batch in self._batches(group)
        ]
        if not self._apart:
            check_apart(self.param_groups)
            self._apart = True
        self._states = list(self.state.values())
        clip = self._clip([batch for batch, _, _ in launches])
        controls = [self._scalars(batch, group, clip) for batch, _, group in launches]
        for (batch, hyper, group), scalars in zip(launches, controls, strict=True):
            self._refresh_masters(batch)
            # Before the launch, while the parameters' records are still in the cache.
            torch.autograd.graph.increment_version(batch.owners)
            self._launch(batch, group, hyper, scalars)
            self._remember_masters(batch)
        SPANS.record("optimizer", start, time.monotonic_ns())
        return loss

    def _launch(
        self, batch: Batch, group: dict[str, Any], hyper: core.Hyper, scalars: Scalars
    ) -> None:
        """Steps one batch; what could be refused has been."""
        control = self._control(batch, group, scalars)
        self._step_table(batch.table, hyper, control, batch.device)

    @staticmethod
    def _step_table(
        table: core.StepTable, hyper: core.Hyper, control: core.StepControl, device: torch.device
    ) -> None:
        index, stream = _tensors.device_and_stream(device)
        table.step(hyper, control, index, stream, torch.get_num_threads())

    def _forget_replaced_states(self) -> None:
        """Plans point into the states: when somebody put other ones in `state`, they are void."""
        states = self.state.values()
        if len(states) != len(self._states) or not identical(states, self._states):
            self._plans.clear()

    def _batches(self, group: dict[str, Any]) -> list[Batch]:
        params = group["params"]
        grads = [param.grad for param in params]
        keys = (*self._state_keys(group), *(["step"] if self._keeps_step(group) else []))
        known, plan = self._plans.get(id(group), (None, None))
        if plan is None or known != keys or not plan.renew(params, grads):
            plan = Plan(params, grads, lambda o, p, g: self._make_batch(o, p, g, group))
            self._plans[id(group)] = (keys, plan)
            self._apart = False
        return plan.batches

    def _make_batch(
        self,
        owners: list[Tensor],
        params: list[Tensor],
        grads: list[Tensor],
        group: dict[str, Any],
    ) -> Batch:
        dtype = params[0].dtype
        if dtype not in _PARAM_DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _PARAM_DTYPES)
            raise TypeError(
                f"{type(self).__name__}: a parameter of shape {tuple(params[0].shape)} is "
                f"{dtype}; supported are {known}"
            )
        for owner in owners:
            self._prepare_state(owner, group)
            self._versions.pop(owner, None)  # its memory may be another one: look at the master
        states = [self.state.get(owner, {}) for owner in owners]
        keys, step = self._state_keys(group), "step" if self._keeps_step(group) else None
        extra, narrow = self.options.extra_key(dtype), self.options.dtype_of_states(dtype)
        factors = self._factors(states, params[0].device)
        table = core.StepTable(
            params=_tensors.addresses(params),
            grads=_tensors.addresses(grads),
            states=[column(states, key, params, narrow) for key in keys],
            extras=column(states, extra, params, EXTRA_DTYPES.get(extra or "", dtype)),
            steps=column(states, step, params, torch.float32),
            factors=_tensors.addresses(factors),
            numels=[param.numel() for param in params],
            param_dtype=_tensors.dtype_code(dtype, what="the parameter"),
            grad_dtype=_tensors.dtype_code(grads[0].dtype, what="the gradient"),
            state_dtype=_tensors.dtype_code(narrow, what="the state"),
            extra=self.options.extra(dtype),
        )
        kept = (*keys, *(key for key in (step, extra, self.factor_key) if key is not None))
        return Batch(owners, params, grads, states, kept, table, factors)

    def _factors(self, states: list[State], device: torch.device) -> list[Tensor]:
        """One float64 per tensor, on the device, for rules that measure; none for others."""
        return []

    def _keeps_step(self, group: dict[str, Any]) -> bool:
        return self.options.is_random or self._counts(group)

    def _prepare_state(self, param: Tensor, group: dict[str, Any]) -> None:
        state = self.state[param]
        if self._keeps_step(group) and "step" not in state:
            # A checkpoint of torch's may have states and no count: they are not the first.
            first = any(key in state for key in self._state_keys(group))
            device = _tensors.local(param).device
            state["step"] = torch.full((), float(first), dtype=torch.float32, device=device)
        dtype, value = self.options.dtype_of_states(param.dtype), self._first_value(group)
        for key in self._state_keys(group):
            if state.get(key) is None:
                state[key] = new_state(param, dtype, value, signed=key in self.signed_keys)
        extra = self.options.extra_key(param.dtype)
        for key in EXTRA_DTYPES.keys() & state.keys():
            if key != extra:
                del state[key]
        if extra == "master" and "master" not in state:
            state["master"] = param.detach().to(torch.float32)
        if extra == "remainder" and "remainder" not in state:
            state["remainder"] = torch.zeros_like(param, dtype=torch.int16, requires_grad=False)
        if not state:  # an entry without anything in it is none in torch's checkpoints
            del self.state[param]

    def _refresh_masters(self, batch: Batch) -> None:
        """A parameter written by anyone else (load_state_dict, say) brings its master along."""
        if "master" in batch.states[0]:
            for owner, state in zip(batch.owners, batch.states, strict=True):
                if owner._version != self._versions.get(owner):
                    follow(state["master"], owner)

    def _remember_masters(self, batch: Batch) -> None:
        if "master" in batch.states[0]:
            self._versions.update((owner, owner._version) for owner in batch.owners)

    def _clip(self, batches: list[Batch]) -> Clip | None:
        total, self._read = self._read, None
        if self.options.max_norm is None:
            return None
        if total is None:
            total = sum_of_squares_of(batches)
        if total is None:
            return None
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        clip = clip_of(total, self.options.max_norm, scale, found_inf)
        self.last_grad_norm = clip.norm
        return clip

    @torch.no_grad()
    def read_gradients(self) -> Tensor | None:
        """Reads all gradients once, ahead of the step, which then need not read them to clip.

        Returns:
            [sum of squares, 1.0 if an element is inf or NaN else 0.0], float64, on the gradients'
            device; None if there are no gradients. Nothing synchronises.
        """
        self._forget_replaced_states()
        self._read = sum_of_squares_of(
            batch for group in self.param_groups for batch in self._batches(group)
        )
        self._states = list(self.state.values())
        return self._read

    def _scalars(self, batch: Batch, group: dict[str, Any], clip: Clip | None) -> Scalars:
        """What scales or skips a batch's step, checked: tensors that live until it is launched."""
        scalars: Scalars = {}
        for name in ("grad_scale", "found_inf"):
            value = getattr(self, name, None)
            if not isinstance(value, Tensor):  # a scaler that found no gradients gives 0
                continue
            if (value.dtype, value.device) != (torch.float32, batch.device):
                raise ValueError(
                    f"{name} is {value.dtype} on {value.device}, not float32 on {batch.device}"
                )
            scalars[name] = value
        if clip is not None:
            here = clip.to(batch.device)
            scalars |= {"clip": here.factor, "found_inf": here.found_inf}
        if isinstance(group["lr"], Tensor) and batch.device.type != "cpu":
            scalars["lr"] = group["lr"].to(batch.device, torch.float32)
        return scalars

    def _control(
        self, batch: Batch, group: dict[str, Any], scalars: Scalars, *, advance: bool = True
    ) -> core.StepControl:
        addresses = {
            name: 0 if (value := scalars.get(name)) is None else value.data_ptr()
            for name in ("grad_scale", "found_inf", "clip", "lr")
        }
        return core.StepControl(
            **addresses,
            maximize=bool(group.get("maximize", False)),
            seed=self.options.seed,
            advance=advance,
            workspace=batch.workspace.data_ptr(),
        )
