"""torch's ReduceOps as operations of our communicator, for every dtype that they mean something to.

Complex tensors are summed as pairs of reals. A bool is true or false: its sum is "any", its product
"all". Bits of integers are combined after an all_gather, since no communicator does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pyparallel.comm.backend.options import Kind
from pyparallel.comm.communicator import Op, Premultiplied

Combine = Callable[[Tensor, Tensor], Tensor]

_OPS: dict[Any, Op] = {
    Kind.SUM: "sum",
    Kind.AVG: "mean",
    Kind.MAX: "max",
    Kind.MIN: "min",
    Kind.PRODUCT: "product",
}
_BITS: dict[Any, Combine] = {
    Kind.BAND: torch.bitwise_and,
    Kind.BOR: torch.bitwise_or,
    Kind.BXOR: torch.bitwise_xor,
}
_OF_BOOLS: dict[Any, Op] = {
    Kind.SUM: "max",
    Kind.MAX: "max",
    Kind.BOR: "max",
    Kind.PRODUCT: "min",
    Kind.MIN: "min",
    Kind.BAND: "min",
}
_OF_COMPLEX = (Kind.SUM, Kind.AVG, Kind.PREMUL_SUM)


def translated(what: str, op: Any, dtype: torch.dtype) -> Op | Combine:
    """The communicator's op, or the combination of two tensors where it has none.

    Args:
        what: the operation's name, for messages.
        op: a ReduceOp or RedOpType.
        dtype: of the tensors.

    Raises:
        ValueError: an op without a meaning for the dtype.
    """
    kind = getattr(op, "op", op)
    if dtype == torch.bool and kind in _OF_BOOLS:
        return _OF_BOOLS[kind]
    if dtype.is_complex and kind not in _OF_COMPLEX:
        raise ValueError(f"{what}: {dtype} has no {kind}, only SUM, AVG and PREMUL_SUM")
    if kind in _BITS:
        if dtype.is_floating_point:
            raise ValueError(f"{what}: {dtype} has no {kind}; it combines the bits of integers")
        return _BITS[kind]
    if kind == Kind.PREMUL_SUM:
        return Premultiplied(float(op.__getstate__()[1]))
    if kind not in _OPS:
        raise ValueError(f"{what}: {kind} is none of {', '.join(map(str, [*_OPS, *_BITS]))}")
    return _OPS[kind]


def numbers(tensor: Tensor) -> Tensor:
    """The same memory as numbers that can be combined: reals for complex, 0 and 1 for bool."""
    if tensor.is_complex():
        return torch.view_as_real(tensor.detach())
    return tensor.detach().view(torch.uint8) if tensor.dtype == torch.bool else tensor


def combined(rows: Tensor, combine: Combine) -> Tensor:
    """The ranks' rows combined in rank order."""
    return reduce(combine, rows.unbind(0))
