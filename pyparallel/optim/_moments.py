"""8-bit moments as the kernels code them: blocks of 128 values, three bits of mantissa, one scale.

::

    [code of element 0, 1, ... | zeros up to a multiple of 4 | float32 scale of block 0, 1, ...]

A signed code spans 16 octaves below its block's largest magnitude, an unsigned one 32. Here what
is cut off rounds to nearest; the kernels round it at random.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyparallel._native import core

BLOCK = 128
_CUT = 20  # bits of float32's mantissa that no code holds
_ONE = 127 << 3  # the code of 1.0 before it is moved to the largest one


def empty_moments(numel: int, device: torch.device) -> Tensor:
    """The codes of `numel` zeros: uint8, one-dimensional."""
    return torch.zeros(core.moment_bytes(numel), dtype=torch.uint8, device=device)


def encode_moments(values: Tensor, *, signed: bool) -> Tensor:
    """The coded moments of a dense tensor, in its memory order."""
    flat = in_memory_order(values).to(torch.float32)
    numel = flat.numel()
    blocks = pad(flat, (0, -numel % BLOCK)).view(-1, BLOCK)
    scales = blocks.abs().amax(1) if numel else blocks.new_zeros(0)
    inverse = torch.where(scales < 2.0**-126, torch.zeros_like(scales), 1 / scales)
    magnitudes = (blocks * inverse[:, None]).abs()
    largest = 127 if signed else 255
    rounded = (magnitudes.contiguous().view(torch.int32) + (1 << (_CUT - 1))) >> _CUT
    codes = (rounded - (_ONE - largest)).clamp(0, largest)
    if not signed:  # a second moment of 0 would make its step infinite
        codes = torch.where(magnitudes > 0, codes.clamp(min=1), codes)
    else:
        codes = codes | (blocks.signbit().to(torch.int32) << 7)
    result = empty_moments(numel, values.device)
    result[:numel] = codes.view(-1)[:numel].to(torch.uint8)
    result[scales_offset(numel) :] = scales.view(torch.uint8)
    return result


def decode_moments(coded: Tensor, like: Tensor, *, signed: bool) -> Tensor:
    """The float32 values of coded moments, in the shape and memory order of `like`."""
    numel = like.numel()
    largest = 127 if signed else 255
    codes = coded[:numel].to(torch.int32)
    sign = torch.where((codes >> 7 == 1) & signed, -1.0, 1.0)
    codes = codes & largest
    values = ((codes + (_ONE - largest)) << _CUT).view(torch.float32)
    scales = coded[scales_offset(numel) :].clone().view(torch.float32)
    values = torch.where(codes == 0, torch.zeros_like(values), values)
    values = sign * values * scales.repeat_interleave(BLOCK)[:numel]
    result = torch.empty_like(like, dtype=torch.float32, requires_grad=False)
    in_memory_order(result).copy_(values)
    return result


def scales_offset(numel: int) -> int:
    """Bytes before the scales."""
    return (numel + 3) // 4 * 4


def in_memory_order(tensor: Tensor) -> Tensor:
    """A one-dimensional view of a dense tensor's memory."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))
