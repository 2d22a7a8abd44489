"""CheckpointedOptimizer: states keep their precision through state_dict, pickle and deepcopy."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from pyparallel.optim._batch import State
from pyparallel.optim._options import Options
from pyparallel.optim._state import check_origin, own_copy, own_step, state_tensors

EXTRA_DTYPES: dict[str, torch.dtype] = {
    "master": torch.float32,
    "remainder": torch.int16,
}
"""What 16-bit parameters may keep beside themselves, by state key."""


class CheckpointedOptimizer(Optimizer):
    """An optimizer whose states are kept as its options say, whatever a checkpoint holds.

    Attributes:
        options: how parameters and states are kept; see Options.
    """

    options: Options
    signed_keys: tuple[str, ...] = ()  # states that may be negative
    completes_groups = False  # whether __setstate__ gives groups whatever they lack

    def _forget(self) -> None:
        """Drops whatever was derived from parameters, groups and states."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but states are kept as `options` say, not in the parameter's dtype.

        Raises:
            ValueError: a state of another shape than its parameter, or another optimizer's
                checkpoint; nothing is loaded then.
        """
        precise: list[tuple[Tensor, str, Tensor]] = []  # as given, before torch casts

        def check(_: Optimizer, given: dict[str, Any]) -> None:  # after all other hooks
            keys = self._all_state_keys()
            required = set() if self.completes_groups else set(self.defaults)
            check_origin(given, required, keys, what=type(self).__name__)
            names = {"step", *EXTRA_DTYPES, *keys}
            precise.extend(state_tensors(given, self.param_groups, names, self._state_shape))

        def restore(_: Optimizer) -> None:  # before all other hooks
            for param, name, value in precise:
                self.state[param][name] = self._own(param, name, value)

        before = self.register_load_state_dict_pre_hook(check)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            before.remove()
            after.remove()

    def _state_shape(self, param: Tensor, key: str) -> torch.Size:
        """The shape of a parameter's state; coded moments have their own."""
        return param.shape

    def _all_state_keys(self) -> set[str]:
        """Every key that any hyperparameters call for."""
        raise NotImplementedError

    def _own(self, param: Tensor, name: str, value: Tensor) -> Tensor:
        if name == "step":
            return own_step(value, param)
        dtype = EXTRA_DTYPES.get(name, self.options.dtype_of_states(param.dtype))
        return own_copy(value, param, dtype, signed=name in self.signed_keys)

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and deepcopy: what torch keeps, and `options`."""
        return {**super().__getstate__(), "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The way back of __getstate__; old or foreign states get what they lack."""
        super().__setstate__(state)
        self.__dict__.setdefault("options", Options())
        self.__dict__.setdefault("last_grad_norm", None)
        self._forget()
        for group in self.param_groups:
            for param in group["params"]:
                self._complete_state(param)

    def _complete_state(self, param: Tensor) -> None:
        state = cast("State", self.state.get(param, {}))
        if "step" in state and not isinstance(state["step"], Tensor):
            state["step"] = torch.tensor(
                float(state["step"]), dtype=torch.float32, device=param.device
            )
