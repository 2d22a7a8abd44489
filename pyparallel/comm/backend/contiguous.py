"""Tensors as torch's callers pass them, and the contiguous memory that a communicator works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyparallel import _tensors

Finish = Callable[[], None]


def contiguous(tensor: Tensor, *, what: str) -> Tensor:
    """The tensor itself if its memory can be used as it lies, else a contiguous copy.

    Raises:
        TypeError: a sparse tensor, or one without memory.
    """
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{what}: the tensor is {tensor.layout}; the pyparallel backend carries dense tensors"
        )
    if tensor.is_contiguous() and not tensor.is_neg() and not tensor.is_conj():
        return tensor
    _refuse_hollow(tensor, what)
    return tensor.detach().resolve_neg().resolve_conj().contiguous()


def writable(tensor: Tensor, *, what: str) -> tuple[Tensor, Finish | None]:
    """Contiguous memory for a result of the tensor's shape, and what copies it into the tensor."""
    twin = contiguous(tensor, what=what)  # with its values: an operation may keep some
    if twin is tensor:
        return tensor, None
    return twin, lambda: _copy(tensor, twin)


def joined(tensors: Sequence[Tensor]) -> Tensor | None:
    """A flat view over tensors that lie one after the other in one allocation, or None."""
    first = tensors[0]
    storage, address, numel = first.untyped_storage().data_ptr(), first.data_ptr(), 0
    for tensor in tensors:
        if (
            not tensor.is_contiguous()
            or tensor.dtype != first.dtype
            or tensor.data_ptr() != address
            or tensor.untyped_storage().data_ptr() != storage
        ):
            return None
        address += tensor.nbytes
        numel += tensor.numel()
    return torch.as_strided(first.detach(), (numel,), (1,)) if numel else None


def packed(tensors: Sequence[Tensor], *, what: str) -> Tensor:
    """The tensors' elements one after the other: a view where they lie so, else a copy."""
    check_list(tensors, what=what)
    flat = joined(tensors)
    return flat if flat is not None else torch.cat([part.detach().reshape(-1) for part in tensors])


def unpacked(tensors: Sequence[Tensor], *, what: str) -> tuple[Tensor, Finish | None]:
    """Flat memory for the tensors one after the other, and what copies it into them."""
    check_list(tensors, what=what)
    flat = joined(tensors)
    if flat is not None:
        return flat, None
    numels = [tensor.numel() for tensor in tensors]
    flat = torch.empty(sum(numels), dtype=tensors[0].dtype)

    def finish() -> None:
        for tensor, part in zip(tensors, torch.split(flat, numels), strict=True):
            _copy(tensor, part.view(tensor.shape))

    return flat, finish


def check_list(tensors: Sequence[Tensor], *, what: str) -> None:
    """Dense tensors of one dtype with memory; at least one."""
    if not tensors:
        raise ValueError(f"{what}: the list of tensors is empty")
    for tensor in tensors:
        if tensor.layout is not torch.strided:
            contiguous(tensor, what=what)
        if tensor.dtype != tensors[0].dtype:
            raise ValueError(f"{what}: dtypes {tensors[0].dtype} and {tensor.dtype} differ")


def in_turn(finishes: Sequence[Finish | None]) -> Finish | None:
    """One call that makes all of them."""
    calls = [finish for finish in finishes if finish is not None]
    if len(calls) < 2:
        return calls[0] if calls else None

    def finish() -> None:
        for call in calls:
            call()

    return finish


def _copy(tensor: Tensor, values: Tensor) -> None:
    tensor.detach().copy_(values)


def _refuse_hollow(tensor: Tensor, what: str) -> None:
    if tensor.device.type == "meta" or type(tensor).__name__ in ("DTensor", "FakeTensor"):
        _tensors.check_memory(tensor, what=f"{what}: the tensor")
