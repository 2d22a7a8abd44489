"""Batches: the parameters that one native call steps, checked once and kept until they change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter, is_, itemgetter
from typing import Any, cast

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core

State = dict[str, Any]

_kind = attrgetter("dtype", "layout", "device")
_is_neg = Tensor.is_neg


def identical(a: Iterable[object], b: Iterable[object]) -> bool:
    """Whether two iterables of one length hold the same objects."""
    return all(map(is_, a, b))


def _geometry(tensors: list[Tensor]) -> tuple[Any, ...]:
    """What an address does not say: two lists of equal geometry and address are read alike."""
    return (
        set(map(_kind, tensors)),
        list(map(Tensor.numel, tensors)),
        list(map(Tensor.stride, tensors)),
    )


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether the elements of two tensors of one shape lie alike; strides of ones do not matter."""
    if a.stride() == b.stride() or a.numel() < 2:
        return True
    triples = zip(a.stride(), b.stride(), a.shape, strict=True)
    return all(first == second for first, second, size in triples if size > 1)


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
    if grad.is_neg():
        grad = grad.resolve_neg()
    if same_order(grad, param):
        _tensors.check_memory(grad, what=f"the gradient of {what}")
        return grad
    warnings.warn(
        f"the gradient of {what} has strides {grad.stride()}, the parameter {param.stride()}: "
        "it is copied at every step",
        stacklevel=2,
    )
    return torch.empty_like(param, dtype=grad.dtype).copy_(grad)


class _Column:
    """One state tensor of every parameter in a batch, and where it lies.

    That the same tensors are there is looked at in every step. Whether one was given other memory
    (``tensor.data = ...``) costs a cache miss per tensor; long lists on the CPU therefore look at
    one tensor per step, by turns, and keep the memory they point to.
    """

    ALL_UP_TO = 256

    def __init__(self, states: list[State], key: str) -> None:
        self._key = key
        self._states = states
        self._tensors: list[Tensor] = list(map(itemgetter(key), states))
        self._addresses = self._look()
        self._turn = 0
        self._by_turns = len(states) > self.ALL_UP_TO and self._tensors[0].device.type == "cpu"
        self._memory = [t.untyped_storage() for t in self._tensors] if self._by_turns else []

    def is_current(self) -> bool:
        """Whether the addresses still hold.

        Raises:
            RuntimeError: a part of the tensors got other memory, possibly some steps ago.
        """
        try:
            if not identical(map(itemgetter(self._key), self._states), self._tensors):
                return False
        except KeyError:  # the tensor was taken out
            return False
        if not self._by_turns:
            return self._look() == self._addresses
        self._turn = (self._turn + 1) % len(self._tensors)
        if _tensors.local(self._tensors[self._turn]).data_ptr() == self._addresses[self._turn]:
            return True
        pairs = zip(self._look(), self._addresses, strict=True)
        if any(now == before for now, before in pairs):
            raise RuntimeError(
                f"the memory of some {self._key!r} states was replaced through .data; put a new "
                "tensor into optimizer.state[param] instead"
            )
        return False

    def _look(self) -> list[int]:
        if type(self._tensors[0]) is Tensor:
            return _tensors.addresses(self._tensors)
        return _tensors.addresses(map(_tensors.local, self._tensors))


class Batch:
    """Parameters with one device, dtype and gradient dtype, and the native table over them.

    Attributes:
        owners: the parameters as the optimizer knows them, in the group's order.
        params: their local memory; the owners themselves but for DTensors.
        states: their optimizer states.
        table: the native table.
        device: of all of them.
        grad_dtype: of all their gradients.
        grad_addresses: where the gradients lie now.
        numels: elements of each.
        grads: their gradients of the last step, in their memory order.
        workspace: device memory for the sums of rules that measure.
        shard_groups: process groups over which the tensors are shards of larger ones.
    """

    def __init__(
        self,
        owners: list[Tensor],
        params: list[Tensor],
        grads: list[Tensor],
        states: list[State],
        keys: Sequence[str],
        table: core.StepTable,
        factors: list[Tensor],
    ) -> None:
        """Keeps the table with what it points to; `keys` name the state tensors among that."""
        self.owners = owners
        self.params = params
        self.states = states
        self.device = params[0].device
        self.grad_dtype = grads[0].dtype
        self.grad_addresses = _tensors.addresses(grads)
        self.numels = [param.numel() for param in params]
        self.shard_groups = _tensors.shard_groups(owners[0])
        self.grads, self._factors = grads, factors
        num_bytes = core.measure_workspace(len(factors)) if self.device.type == "cuda" else 0
        self.workspace = torch.empty(num_bytes, dtype=torch.uint8, device=self.device)
        self._grad_geometry = _geometry(grads)
        self._param_addresses = _tensors.addresses(params)
        self._columns = [_Column(states, key) for key in keys]
        self.table = table

    def renew(self, grads: list[Tensor]) -> bool:
        """Takes this step's gradients; False if the batch no longer fits and must be built anew."""
        same = identical(grads, self.grads)
        if not same and set(map(_kind, grads)) != self._grad_geometry[0]:
            return False
        addresses = _tensors.addresses(grads)
        changed = addresses != self.grad_addresses
        looks_new = changed or not same
        if looks_new and (_geometry(grads) != self._grad_geometry or any(map(_is_neg, grads))):
            return False
        if changed and addresses.count(0) != self.grad_addresses.count(0):
            return False  # fake or wrapped ones
        if _tensors.addresses(self.params) != self._param_addresses:
            return False
        if not all(column.is_current() for column in self._columns):
            return False
        if changed:
            self.table.set_grads(addresses)
            self.grad_addresses = addresses
        self.grads = grads
        return True


MakeBatch = Callable[[list[Tensor], list[Tensor], list[Tensor]], Batch]


class Plan:
    """The batches of one group for one pattern of missing gradients.

    Attributes:
        batches: one per device, dtype, gradient dtype and way of sharding.
    """

    def __init__(
        self, owners: list[Tensor], grads: list[Tensor | None], make_batch: MakeBatch
    ) -> None:
        """Sorts the parameters that have gradients into batches."""
        self._owners = list(owners)
        params = [_tensors.local(owner) for owner in owners]
        self._distributed = not identical(params, owners)
        grads = self._local(grads)
        self._missing = [grad is None for grad in grads]
        self._indices: dict[tuple[Any, ...], list[int]] = {}
        used: list[Tensor | None] = []
        times: dict[int, int] = {}  # what is given twice is stepped twice, one after the other
        for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
            if grad is None:
                used.append(None)
                continue
            _tensors.check_memory(param, what=f"parameter {index}")
            grad = dense_grad(param, grad, what=f"parameter {index}")
            used.append(grad)
            groups = _tensors.shard_groups(owners[index]) if self._distributed else ()
            times[id(owners[index])] = turn = times.get(id(owners[index]), -1) + 1
            kind = (param.device, param.dtype, grad.dtype, groups, turn)
            self._indices.setdefault(kind, []).append(index)
        # A copied gradient serves one step: such a plan is not kept.
        self.reusable = identical(used, grads)
        self.batches = [
            make_batch(
                [owners[i] for i in indices],
                [params[i] for i in indices],
                [g for i in indices if (g := used[i]) is not None],
            )
            for indices in self._indices.values()
        ]

    def renew(self, owners: list[Tensor], grads: list[Tensor | None]) -> bool:
        """Takes this step's gradients; False if the plan no longer fits."""
        if not self.reusable or len(owners) != len(self._owners):
            return False
        if not identical(owners, self._owners):
            return False
        if [grad is None for grad in grads] != self._missing:
            return False
        grads = self._local(grads)
        if len(self.batches) == 1 and not any(self._missing):
            return self.batches[0].renew(cast("list[Tensor]", grads))
        return all(
            batch.renew([g for i in indices if (g := grads[i]) is not None])
            for batch, indices in zip(self.batches, self._indices.values(), strict=True)
        )

    def _local(self, grads: list[Tensor | None]) -> list[Tensor | None]:
        if not self._distributed:
            return grads
        return [
            None if grad is None else _tensors.local_grad(grad, owner, what=f"parameter {index}")
            for index, (grad, owner) in enumerate(zip(grads, self._owners, strict=True))
        ]
