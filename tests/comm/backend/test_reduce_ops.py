"""torch's ReduceOps in our words, and what has no meaning for a dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from pyparallel.comm.backend.reduce_ops import numbers, translated
from pyparallel.comm.communicator import Premultiplied

OP = dist.ReduceOp


@pytest.mark.parametrize(
    ("op", "dtype", "expected"),
    [
        (OP.SUM, torch.float32, "sum"),
        (OP(OP.SUM), torch.complex64, "sum"),
        (OP.AVG, torch.bfloat16, "mean"),
        (OP.MAX, torch.int64, "max"),
        (OP.MIN, torch.uint8, "min"),
        (OP.PRODUCT, torch.float64, "product"),
        (OP.SUM, torch.bool, "max"),
        (OP.PRODUCT, torch.bool, "min"),
        (OP.BAND, torch.bool, "min"),
        (OP.BXOR, torch.bool, torch.bitwise_xor),
        (OP.BOR, torch.int32, torch.bitwise_or),
        (dist._make_nccl_premul_sum(2.5), torch.float32, Premultiplied(2.5)),
        (dist._make_nccl_premul_sum(torch.tensor([2.5])), torch.float32, Premultiplied(2.5)),
    ],
)
def test_what_an_op_is_called(op: Any, dtype: torch.dtype, expected: Any) -> None:
    assert translated("all_reduce", op, dtype) == expected


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        (OP.PRODUCT, torch.complex64),
        (OP.MAX, torch.complex128),
        (OP.BXOR, torch.complex64),
        (OP.BAND, torch.float32),
        (OP.BOR, torch.bfloat16),
    ],
)
def test_what_has_no_meaning(op: Any, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"all_reduce: {dtype} has no .*{str(op).split('.')[-1]}"):
        translated("all_reduce", op, dtype)


def test_numbers_are_the_same_memory() -> None:
    for dtype, seen in (
        (torch.complex64, torch.float32),
        (torch.complex128, torch.float64),
        (torch.bool, torch.uint8),
        (torch.int16, torch.int16),
    ):
        tensor = torch.ones(3, 2, dtype=dtype)
        found = numbers(tensor)
        assert found.dtype == seen
        assert found.data_ptr() == tensor.data_ptr()
        assert found.nbytes == tensor.nbytes
    assert not numbers(torch.ones(2, dtype=torch.complex64, requires_grad=True)).requires_grad
