"""State tensors: in their parameter's memory order, in their own dtype, exact through loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.optim._batch import State, same_order
from pyparallel.optim._moments import decode_moments, empty_moments, encode_moments

# What optimizers keep per parameter: one that keeps some of it, but not ours, is another one.
_KEPT_BY_OPTIMIZERS = {
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg"),
    *("grad_avg", "acc_delta", "sum", "ax", "prev", "row_var", "col_var", "variance"),
}
# What __setstate__ gives to groups of checkpoints from before there was such a choice.
_ADDED_LATER = {
    *("amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused", "nesterov"),
    *("decoupled_weight_decay", "centered", "momentum"),
}


def new_state(param: Tensor, dtype: torch.dtype, value: float = 0.0, *, signed: bool) -> Tensor:
    """A state tensor of one value, shaped as its parameter (8-bit ones: a list of codes)."""
    if dtype != torch.uint8:
        return torch.full_like(param, value, dtype=dtype, requires_grad=False)
    if _tensors.local(param) is not param:
        raise TypeError("state_dtype='8bit' has no shape that a DTensor parameter could shard")
    if value == 0.0:
        return empty_moments(param.numel(), param.device)
    return encode_moments(torch.full_like(param, value, dtype=torch.float32), signed=signed)


def column(
    states: list[State], key: str | None, params: list[Tensor], dtype: torch.dtype
) -> list[int]:
    """Addresses of one state tensor per parameter; none at all without a key.

    Raises:
        ValueError: a state of another dtype, device, shape or memory order than the kernels expect.
    """
    if key is None:
        return []
    tensors = [_tensors.local(state[key]) for state in states]
    for value, param in zip(tensors, params, strict=True):
        if value.dtype != dtype or value.device != param.device:
            raise ValueError(
                f"state {key!r} is {value.dtype} on {value.device}, it must be {dtype} on "
                f"{param.device}"
            )
        shape = param.shape
        if key == "step":
            shape = torch.Size()
        elif dtype == torch.uint8:
            shape = empty_moments(param.numel(), torch.device("meta")).shape
        if value.shape != shape:
            raise ValueError(
                f"state {key!r} has shape {tuple(value.shape)}, it must be {tuple(shape)}"
            )
        if value.shape == param.shape and not same_order(value, param):
            raise ValueError(
                f"state {key!r} has strides {value.stride()}, its parameter {param.stride()}"
            )
    return _tensors.addresses(tensors)


def follow(master: Tensor, param: Tensor) -> None:
    """Gives a master its parameter's value, wherever that is not the rounded master.

    Elements that are keep their precision, so model and optimizer may load in either order.
    """
    same = master.to(param.dtype) == param
    master.copy_(torch.where(same, master, param.to(torch.float32)))


def state_tensors(
    state_dict: dict[str, Any],
    groups: list[dict[str, Any]],
    names: set[str],
    shape_of: Callable[[Tensor, str], torch.Size],
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
            shape = shape_of(param, name)
            if value.dtype == torch.uint8:
                shape = empty_moments(param.numel(), torch.device("meta")).shape
            if name != "step" and value.shape != shape:
                raise ValueError(
                    f"state {name!r} of parameter {key} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(param.shape)}"
                )
            yield param, name, value


def check_origin(
    state_dict: dict[str, Any], required: set[str], keys: set[str], *, what: str
) -> None:
    """Refuses a checkpoint of an optimizer that keeps other states or has other hyperparameters.

    Raises:
        ValueError: with what the checkpoint has and what `what`, our class, has.
    """
    for key, state in state_dict["state"].items():
        if not isinstance(state, dict):  # a hook may keep something of its own there
            continue
        if state.keys() & (_KEPT_BY_OPTIMIZERS - keys):
            raise ValueError(
                f"{what}: the checkpoint is another optimizer's: parameter {key} has states "
                f"{sorted(state)}, {what} keeps {sorted(keys)}"
            )
    for number, group in enumerate(state_dict["param_groups"]):
        missing = required - _ADDED_LATER - group.keys()
        if missing:
            raise ValueError(
                f"{what}: the checkpoint is another optimizer's: group {number}, of parameters "
                f"{group['params']}, has {sorted(group.keys() - {'params'})}, but no "
                f"{sorted(missing)}"
            )


def own_copy(value: Tensor, param: Tensor, dtype: torch.dtype, *, signed: bool) -> Tensor:
    """A copy of a loaded state on the parameter's device, in its memory order, as `dtype`.

    The same dtype keeps every bit; 8-bit moments are coded and decoded where one side is not.
    """
    value = value.to(param.device)
    if value.dtype == torch.uint8 and dtype == torch.uint8:
        return value.clone()
    if value.dtype == torch.uint8:
        value = decode_moments(value, param, signed=signed)
    result = torch.empty_like(param, dtype=value.dtype, requires_grad=False).copy_(value)
    return encode_moments(result, signed=signed) if dtype == torch.uint8 else result.to(dtype)


def own_step(value: Tensor, param: Tensor) -> Tensor:
    """A copy of a loaded step count: one float32 on the parameter's device."""
    return value.to(param.device, torch.float32, copy=True).reshape(())
