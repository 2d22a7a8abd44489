"""Batches: the parameters that one native call steps, checked once and kept until they change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from operator import is_, itemgetter
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from pyparallel import _tensors

State = dict[str, Any]


class Table(Protocol):
    """A native table of addresses whose gradients can be replaced."""

    def set_grads(self, grads: Sequence[int]) -> None:
        """Points to other gradients of the same sizes and dtype."""


TableT = TypeVar("TableT", bound=Table)


def _identical(a: Iterable[object], b: Iterable[object]) -> bool:
    return all(map(is_, a, b))


def dense_grad(param: Tensor, grad: Tensor, *, what: str) -> Tensor:
    """The gradient in the memory order of its parameter, copied if it lies differently.

    Raises:
        RuntimeError: a sparse gradient, as torch raises it.
        TypeError: a gradient without plain memory.
        ValueError: a gradient of another device or shape.
    """
    if grad.is_sparse:
        raise RuntimeError(
            f"{what}: sparse gradients are not supported, use torch.optim.SparseAdam"
        )
    if grad.device != param.device or grad.shape != param.shape:
        raise ValueError(
            f"{what} is {tuple(param.shape)} on {param.device}, "
            f"its gradient {tuple(grad.shape)} on {grad.device}"
        )
    if grad.stride() == param.stride() or grad.numel() < 2:
        _tensors.check_memory(grad, what=f"the gradient of {what}")
        return grad
    warnings.warn(
        f"the gradient of {what} has strides {grad.stride()}, the parameter {param.stride()}: "
        "it is copied at every step",
        stacklevel=2,
    )
    return torch.empty_like(param, dtype=grad.dtype).copy_(grad)


class Batch(Generic[TableT]):
    """Parameters with one device, dtype and gradient dtype, and the native table over them.

    Attributes:
        params: the parameters, in the group's order.
        states: their optimizer states.
        table: the native table.
        device: of all of them.
    """

    def __init__(
        self,
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        keys: Sequence[str],
        table: TableT,
    ) -> None:
        """Keeps the table with what it points to; `keys` name the state tensors among that."""
        self.params = params
        self.states = states
        self.device = params[0].device
        self._grads = grads
        self._grad_addresses = _tensors.addresses(grads)
        self._param_addresses = _tensors.addresses(params)
        self._columns = [
            (itemgetter(key), list(map(itemgetter(key), states)))
            for key in keys
            if key in states[0]
        ]
        self.table = table

    def renew(self, grads: list[Tensor]) -> bool:
        """Takes this step's gradients; False if the batch no longer fits and must be built anew."""
        if not _identical(grads, self._grads):
            for param, grad, old in zip(self.params, grads, self._grads, strict=True):
                if grad.dtype is not old.dtype or grad.layout is not torch.strided:
                    return False
                if grad.stride() != param.stride() or grad.device != self.device:
                    return False
        if _tensors.addresses(self.params) != self._param_addresses:
            return False
        if not all(_identical(map(get, self.states), column) for get, column in self._columns):
            return False
        addresses = _tensors.addresses(grads)
        if addresses != self._grad_addresses:
            self.table.set_grads(addresses)
            self._grad_addresses = addresses
        self._grads = grads
        return True


class Plan(Generic[TableT]):
    """The batches of one group for one pattern of missing gradients.

    Attributes:
        batches: one per device, dtype and gradient dtype.
    """

    def __init__(
        self,
        params: list[Tensor],
        grads: list[Tensor | None],
        make_batch: Callable[[list[Tensor], list[Tensor]], Batch[TableT]],
    ) -> None:
        """Sorts the parameters that have gradients into batches."""
        self._params = list(params)
        self._missing = [grad is None for grad in grads]
        self._indices: dict[tuple[Any, ...], list[int]] = {}
        used: list[Tensor | None] = []
        for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
            if grad is None:
                used.append(None)
                continue
            _tensors.check_memory(param, what=f"parameter {index}")
            grad = dense_grad(param, grad, what=f"parameter {index}")
            used.append(grad)
            self._indices.setdefault((param.device, param.dtype, grad.dtype), []).append(index)
        # A copied gradient serves one step: such a plan is not kept.
        self.reusable = _identical(used, grads)
        self.batches = [
            make_batch(
                [params[i] for i in indices], [g for i in indices if (g := used[i]) is not None]
            )
            for indices in self._indices.values()
        ]

    def renew(self, params: list[Tensor], grads: list[Tensor | None]) -> bool:
        """Takes this step's gradients; False if the plan no longer fits."""
        if not self.reusable or len(params) != len(self._params):
            return False
        if not _identical(params, self._params):
            return False
        if [grad is None for grad in grads] != self._missing:
            return False
        return all(
            batch.renew([g for i in indices if (g := grads[i]) is not None])
            for batch, indices in zip(self.batches, self._indices.values(), strict=True)
        )
