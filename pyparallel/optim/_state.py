"""State tensors: float32 whatever the parameter's dtype, and in its memory order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.optim._batch import State, same_order


def column(states: list[State], key: str, params: list[Tensor]) -> list[int]:
    """Addresses of one state tensor per parameter; none at all where no state has it.

    Raises:
        ValueError: a state of another dtype, device, shape or memory order than the kernels expect.
    """
    if key not in states[0]:
        return []
    for state, param in zip(states, params, strict=True):
        value = state[key]
        if value.dtype != torch.float32 or value.device != param.device:
            raise ValueError(
                f"state {key!r} is {value.dtype} on {value.device}, it must be float32 on "
                f"{param.device}"
            )
        shape = torch.Size() if key == "step" else param.shape
        if value.shape != shape:
            raise ValueError(
                f"state {key!r} has shape {tuple(value.shape)}, it must be {tuple(shape)}"
            )
        if not same_order(value, param):
            raise ValueError(
                f"state {key!r} has strides {value.stride()}, its parameter {param.stride()}"
            )
    return _tensors.addresses(state[key] for state in states)


def follow(master: Tensor, param: Tensor) -> None:
    """Gives a master its parameter's value, wherever that is not the rounded master.

    Elements that are keep their precision, so model and optimizer may load in either order.
    """
    same = master.to(param.dtype) == param
    master.copy_(torch.where(same, master, param.to(torch.float32)))


def state_tensors(
    state_dict: dict[str, Any], groups: list[dict[str, Any]], names: set[str]
) -> Iterator[tuple[Tensor, str, Tensor]]:
    """The named tensors of an optimizer's state dict, each with the parameter it belongs to.

    Raises:
        ValueError: a state of another shape than its parameter.
    """
    saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
    params = chain.from_iterable(group["params"] for group in groups)
    for key, param in zip(saved, params, strict=False):  # torch compares the lengths
        state = state_dict["state"].get(key, {})
        for name in state.keys() & names:
            value = state[name]
            if not isinstance(value, Tensor):
                continue
            if name != "step" and value.shape != param.shape:
                raise ValueError(
                    f"state {name!r} of parameter {key} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(param.shape)}"
                )
            yield param, name, value


def own_copy(value: Tensor, param: Tensor, *, scalar: bool) -> Tensor:
    """A float32 copy on the parameter's device, in its memory order."""
    if scalar:
        return value.to(param.device, torch.float32, copy=True).reshape(())
    return torch.empty_like(param, dtype=torch.float32, requires_grad=False).copy_(value)
