"""Gradients as 8-bit integers with a scale per block, and back: one pass each, CPU and CUDA."""

from __future__ import annotations

import torch
from torch import Tensor

from pyparallel._native import core
from pyparallel._tensors import check_memory, device_and_stream, dtype_code

BLOCK = 256
"""Elements that share a scale."""

_VALUES = (torch.float32, torch.bfloat16, torch.float16)


def num_blocks(numel: int) -> int:
    """Scales that `numel` elements need."""
    return -(-numel // BLOCK)


def encode_blocks(
    values: Tensor, codes: Tensor, scales: Tensor, *, error: Tensor | None = None
) -> None:
    """Rounds ``values + error`` to 8 bits in blocks and keeps in ``error`` what that dropped.

    ``scale = max |values + error| / 127`` of each block (cut to 17 bits of mantissa, so that
    ``codes * scale + error`` is ``values + error`` exactly). A block with inf or NaN gets the
    scale NaN, codes 0 and error 0. On CUDA it is enqueued on the current stream.

    Args:
        values: contiguous; float32, bfloat16 or float16.
        codes: int8, as many elements; overwritten.
        scales: float32, :func:`num_blocks` of them; overwritten.
        error: float32, as many elements; read and overwritten. None: nothing is kept.

    Raises:
        ValueError: sizes, dtypes or devices that do not fit, with both values.
        TypeError: tensors without plain memory.
    """
    what = "encode_blocks"
    _check(values, values, _VALUES, values.numel(), what=f"{what}: values")
    _check(codes, values, (torch.int8,), values.numel(), what=f"{what}: codes")
    _check(scales, values, (torch.float32,), num_blocks(values.numel()), what=f"{what}: scales")
    if error is not None:
        _check(error, values, (torch.float32,), values.numel(), what=f"{what}: error")
    core.encode_blocks(
        values.data_ptr(),
        dtype_code(values.dtype, what=what),
        0 if error is None else error.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        values.numel(),
        *device_and_stream(values.device),
        torch.get_num_threads(),
    )
    written = [codes, scales] if error is None else [codes, scales, error]
    torch.autograd.graph.increment_version(written)


def decode_blocks(
    codes: Tensor, scales: Tensor, output: Tensor, *, factor: float = 1.0, add: bool = False
) -> None:
    """Computes ``output = codes * scales * factor``, or adds that to ``output``, in float32.

    Args:
        codes: int8, contiguous.
        scales: float32, :func:`num_blocks` of them.
        output: float32, bfloat16 or float16, as many elements as codes.
        factor: a float32.
        add: whether what is in ``output`` stays in the sum.

    Raises:
        ValueError: sizes, dtypes or devices that do not fit, with both values.
        TypeError: tensors without plain memory.
    """
    what = "decode_blocks"
    _check(codes, output, (torch.int8,), codes.numel(), what=f"{what}: codes")
    _check(scales, output, (torch.float32,), num_blocks(codes.numel()), what=f"{what}: scales")
    _decode(codes.view(1, -1), scales.view(1, -1), output, factor, add=add, what=what)


def sum_blocks(codes: Tensor, scales: Tensor, output: Tensor, *, factor: float = 1.0) -> None:
    """Sums what several ranks encoded: ``output = factor * sum over r of codes[r] * scales[r]``.

    In rank order, in float32, rounded to output's dtype once.

    Args:
        codes: int8 of shape (ranks, numel); rows are contiguous and may lie apart, as the parts of
            one gathered buffer do.
        scales: float32 of shape (ranks, num_blocks(numel)); likewise.
        output: float32, bfloat16 or float16, numel elements.
        factor: a float32; 1 / ranks gives the mean.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, with both values.
        TypeError: tensors without plain memory.
    """
    _decode(codes, scales, output, factor, add=False, what="sum_blocks")


def _decode(
    codes: Tensor, scales: Tensor, output: Tensor, factor: float, *, add: bool, what: str
) -> None:
    if codes.dim() != 2 or scales.dim() != 2 or codes.shape[0] != scales.shape[0] or not len(codes):
        raise ValueError(
            f"{what}: codes of shape {tuple(codes.shape)} and scales of shape "
            f"{tuple(scales.shape)} are not (ranks, numel) and (ranks, blocks)"
        )
    numel = codes.shape[1]
    _check(codes[0], output, (torch.int8,), numel, what=f"{what}: codes")
    _check(scales[0], output, (torch.float32,), num_blocks(numel), what=f"{what}: scales")
    _check(output, output, _VALUES, numel, what=f"{what}: output")
    core.decode_blocks(
        codes.data_ptr(),
        codes.stride(0),
        scales.data_ptr(),
        scales.stride(0) * scales.itemsize,
        codes.shape[0],
        output.data_ptr(),
        dtype_code(output.dtype, what=what),
        numel,
        factor,
        add,
        *device_and_stream(output.device),
        torch.get_num_threads(),
    )
    torch.autograd.graph.increment_version(output)


def _check(
    tensor: Tensor, owner: Tensor, dtypes: tuple[torch.dtype, ...], numel: int, *, what: str
) -> None:
    check_memory(tensor, what=what)
    if tensor.dtype not in dtypes or tensor.device != owner.device or not tensor.is_contiguous():
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(
            f"{what} must be contiguous {known} on {owner.device}; it has the strides "
            f"{tensor.stride()} and is {tensor.dtype} on {tensor.device}"
        )
    if tensor.numel() != numel:
        raise ValueError(f"{what} has {tensor.numel()} elements, not {numel}")
