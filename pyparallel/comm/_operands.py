"""What communicators without torch's own checks refuse: the same, with one rank or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm.communicator import Algorithm, Op, Premultiplied, Reduction

_OPS = get_args(Reduction)
_ALGORITHMS = get_args(Algorithm)
_PLAIN = (Tensor, torch.nn.Parameter)


def check_moved(what: str, device_type: str, *tensors: Tensor) -> None:
    """Tensors must be contiguous, of one dtype, on the communicator's device.

    Raises:
        TypeError: a tensor without plain memory.
        ValueError: everything else, with both values.
    """
    for tensor in tensors:
        # Reading `device` takes as long as all the rest.
        try:
            here = tensor.is_cpu if device_type == "cpu" else tensor.device.type == device_type
        except AttributeError:
            raise TypeError(f"{what}: {type(tensor).__name__} is no tensor") from None
        if not here:
            raise ValueError(
                f"{what}: the tensor is on {tensor.device}, this communicator serves {device_type}"
            )
        plain = type(tensor) in _PLAIN and not tensor.is_neg() and not tensor.is_conj()
        if not plain or not tensor.is_contiguous():
            _tensors.check_memory(tensor, what=f"{what}: the tensor")
            if not tensor.is_contiguous():
                raise ValueError(
                    f"{what}: the tensor of shape {tuple(tensor.shape)} with strides "
                    f"{tensor.stride()} is not contiguous"
                )
        if tensor is not tensors[0] and tensor.dtype != tensors[0].dtype:
            raise ValueError(f"{what}: dtypes {tensors[0].dtype} and {tensor.dtype} differ")


def check_operands(what: str, device_type: str, *tensors: Tensor) -> int:
    """Like check_moved, for tensors that are combined: the core has to know their dtype.

    Returns:
        The core's code of their dtype.
    """
    check_moved(what, device_type, *tensors)
    code = _tensors.DTYPE_CODES.get(tensors[0].dtype)
    if code is None:
        return _tensors.dtype_code(tensors[0].dtype, what=f"{what}: the tensor")
    return code


def check_reduction(what: str, op: Op, tensor: Tensor) -> Op:
    """The op, if there is one of that name and it gives the tensor's dtype."""
    if op not in _OPS and not isinstance(op, Premultiplied):
        raise ValueError(f"{what}: op {op!r} is none of {', '.join(_OPS)} or Premultiplied")
    if tensor.dtype.is_floating_point:
        return op
    if op == "mean":
        raise ValueError(
            f"{what}: the mean of {tensor.dtype} is not an integer; use op='sum' and divide"
        )
    if isinstance(op, Premultiplied):
        raise ValueError(f"{what}: {op.factor} times {tensor.dtype} is not an integer")
    return op


def algorithms_of(device_type: str) -> tuple[Algorithm, ...]:
    """The algorithms that our own communicators have on a device."""
    return ("direct", "ring", "nccl") if device_type == "cuda" else ("direct", "ring")


def check_algorithm(what: str, algorithm: str, *known: Algorithm) -> None:
    """The algorithm is "auto" or one that this communicator has."""
    if algorithm != "auto" and algorithm not in known:
        if algorithm in _ALGORITHMS:
            raise ValueError(
                f"{what}: this communicator has no algorithm {algorithm!r}, but "
                f"{', '.join(known)} or auto"
            )
        raise ValueError(f"{what}: algorithm {algorithm!r} is none of {', '.join(_ALGORITHMS)}")


def check_measures(what: str, algorithm: str) -> None:
    """On CUDA only our own algorithms look at what they combine."""
    if algorithm in ("auto", "nccl"):
        raise ValueError(f"{what}: NCCL does not measure; squares needs algorithm='ring'")


def check_squares(what: str, squares: Tensor, device_type: str, op: Op, *tensors: Tensor) -> int:
    """Where a reduction puts the sum of squares: two float64 apart from its tensors.

    Returns:
        Their address.
    """
    check_moved(f"{what}: squares", device_type, squares)
    if squares.numel() != 2 or squares.dtype != torch.float64:
        raise ValueError(
            f"{what}: squares is {squares.numel()} x {squares.dtype}, not 2 x torch.float64"
        )
    dtype = tensors[0].dtype
    if op in ("max", "min", "product") or not dtype.is_floating_point:
        raise ValueError(f"{what}: squares only of sums of floating dtypes, not of {op} of {dtype}")
    address = squares.data_ptr()
    for tensor in tensors:
        begin = tensor.data_ptr()
        if tensor.numel() and begin - squares.nbytes < address < begin + tensor.nbytes:
            raise ValueError(f"{what}: squares lies in the tensor that is reduced")
    return address


def check_root(root: int, world_size: int, *, what: str = "broadcast") -> None:
    """The root is a rank."""
    if not 0 <= root < world_size:
        raise ValueError(f"{what}: root {root} is not in a world of {world_size}")


def check_only_root(what: str, tensor: Tensor | None, *, name: str, rank: int, root: int) -> None:
    """A tensor that the root gives and nobody else."""
    if rank == root and tensor is None:
        raise ValueError(f"{what}: rank {rank} is the root and needs {name}")
    if rank != root and tensor is not None:
        raise ValueError(
            f"{what}: {name} is None on all ranks but the root {root}; this is rank {rank}"
        )


def check_peer(what: str, peer: int, *, rank: int, world_size: int) -> None:
    """Messages go to another rank."""
    if not 0 <= peer < world_size:
        raise ValueError(f"{what}: rank {peer} is not in a world of {world_size}")
    if peer == rank:
        raise ValueError(f"{what}: rank {rank} is this rank itself")


def check_tag(what: str, tag: int) -> None:
    """Tags count from 0 and fit 31 bits."""
    if not 0 <= tag < 1 << 31:
        raise ValueError(f"{what}: tag {tag} is not in [0, 2^31)")


def check_parts(what: str, world_size: int, *, whole: Tensor, part: Tensor) -> None:
    """The whole holds a part of every rank."""
    if whole.numel() != part.numel() * world_size:
        raise ValueError(
            f"{what}: {whole.numel()} elements are not {world_size} ranks times "
            f"{part.numel()} elements"
        )


def check_sizes(
    what: str, world_size: int, tensor: Tensor, sizes: Sequence[int] | None, *, name: str
) -> list[int]:
    """The sizes of a tensor's parts, one per rank; equal ones by default."""
    if sizes is None:
        if tensor.numel() % world_size:
            raise ValueError(
                f"{what}: {tensor.numel()} elements are not {world_size} equal parts; give {name}"
            )
        return [tensor.numel() // world_size] * world_size
    if len(sizes) != world_size or any(size < 0 for size in sizes):
        raise ValueError(f"{what}: {name} {list(sizes)} are not {world_size} sizes from 0")
    if sum(sizes) != tensor.numel():
        raise ValueError(
            f"{what}: {name} sum to {sum(sizes)}, the tensor has {tensor.numel()} elements"
        )
    return list(sizes)


def check_shape(shape: tuple[int, ...]) -> None:
    """A new tensor's dimensions are integers from 0."""
    for size in shape:
        if not hasattr(size, "__index__"):
            raise TypeError(f"empty: size {size!r} is no integer; sizes are given one by one")
    if any(size < 0 for size in shape):
        raise ValueError(f"empty: negative size in {shape}")
