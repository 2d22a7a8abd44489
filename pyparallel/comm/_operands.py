"""What communicators without torch's own checks refuse: the same, with one rank or many."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm.communicator import Reduction

_OPS = get_args(Reduction)
_PLAIN = (Tensor, torch.nn.Parameter)


def check_operands(what: str, device_type: str, *tensors: Tensor) -> int:
    """Tensors must be contiguous, of one known dtype, on the communicator's device.

    Returns:
        The core's code of their dtype.

    Raises:
        TypeError: an unknown dtype, or a tensor without plain memory.
        ValueError: everything else, with both values.
    """
    for tensor in tensors:
        if tensor.device.type != device_type:
            raise ValueError(
                f"{what}: the tensor is on {tensor.device}, this communicator serves {device_type}"
            )
        if not tensor.is_contiguous() or tensor.is_neg() or type(tensor) not in _PLAIN:
            _tensors.check_memory(tensor, what=f"{what}: the tensor")
            if not tensor.is_contiguous():
                raise ValueError(
                    f"{what}: the tensor of shape {tuple(tensor.shape)} with strides "
                    f"{tensor.stride()} is not contiguous"
                )
        if tensor.dtype != tensors[0].dtype:
            raise ValueError(f"{what}: dtypes {tensors[0].dtype} and {tensor.dtype} differ")
    code = _tensors.DTYPE_CODES.get(tensors[0].dtype)
    if code is None:
        return _tensors.dtype_code(tensors[0].dtype, what=f"{what}: the tensor")
    return code


def check_reduction(what: str, op: str, tensor: Tensor) -> str:
    """The op, if there is one of that name and it gives the tensor's dtype."""
    if op not in _OPS:
        raise ValueError(f"{what}: op {op!r} is none of {', '.join(_OPS)}")
    if op == "mean" and not tensor.dtype.is_floating_point:
        raise ValueError(
            f"{what}: the mean of {tensor.dtype} is not an integer; use op='sum' and divide"
        )
    return op


def check_root(root: int, world_size: int) -> None:
    """The root of a broadcast is a rank."""
    if not 0 <= root < world_size:
        raise ValueError(f"broadcast: root {root} is not in a world of {world_size}")


def check_parts(what: str, world_size: int, *, whole: Tensor, part: Tensor) -> None:
    """The whole holds a part of every rank."""
    if whole.numel() != part.numel() * world_size:
        raise ValueError(
            f"{what}: {whole.numel()} elements are not {world_size} ranks times "
            f"{part.numel()} elements"
        )


def check_shape(shape: tuple[int, ...]) -> None:
    """No dimension of a new tensor is negative."""
    if any(size < 0 for size in shape):
        raise ValueError(f"empty: negative size in {shape}")
