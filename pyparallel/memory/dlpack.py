"""Blocks as tensors of any library, by DLPack and without a copy."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from pyparallel._native import core

if TYPE_CHECKING:
    from pyparallel.memory.block import Block
    from pyparallel.memory.pool import MemoryPool

_CPU, _CUDA = 1, 2  # the standard's DLDeviceType


def device_of(block: Block) -> tuple[int, int]:
    """The standard's type and index of the device on which a block lies."""
    pool = block.pool
    return (_CPU, 0) if pool.device < 0 else (_CUDA, pool.device)


def export(
    block: Block,
    *,
    stream: int | None,
    max_version: tuple[int, int] | None,
    dl_device: tuple[int, int] | None,
    copy: bool | None,
) -> Any:
    """A capsule of the block as bytes, for one consumer. See Block.__dlpack__."""
    pool = block.pool
    if dl_device is not None and tuple(dl_device) != device_of(block):
        raise BufferError(f"a block on device {device_of(block)} cannot be had on {dl_device}")
    if copy:
        raise BufferError("a block is handed over as it is: copy the tensor that it becomes")
    if block.freed or pool.native.num_bytes(block.ptr) == 0:
        raise ValueError(f"{block.ptr:#x} is no live block of {pool!r}")
    if pool.device < 0:
        if stream is not None:
            raise ValueError(f"stream {stream}: host memory has no streams")
    elif stream != -1:
        # None and 1 are the default stream; 2 is the handle of each thread's own.
        pool.native.share(block.ptr, 0 if stream in (None, 1) else stream)
    versioned = max_version is not None and max_version[0] >= 1
    capsule = core.dlpack(
        pool.native, block.ptr, block.num_bytes, pool.device, versioned=versioned, owning=False
    )
    if block.freed:  # by another thread, before it could see the view
        del capsule
        raise ValueError(f"{block.ptr:#x} is no live block of {pool!r}")
    return capsule


def tensor(pool: MemoryPool, shape: tuple[int, ...], dtype: torch.dtype, stream: int) -> Tensor:
    """A contiguous tensor that frees its block. See MemoryPool.tensor."""
    for size in shape:
        if not hasattr(size, "__index__"):
            raise TypeError(f"a tensor's size is no {type(size).__name__}: give them one by one")
    if any(size < 0 for size in shape):
        raise ValueError(f"a tensor cannot have the shape {shape}")
    num_bytes = prod(shape) * dtype.itemsize
    block = pool.allocate(num_bytes, stream=stream)
    capsule = core.dlpack(
        pool.native, block.ptr, num_bytes, pool.device, versioned=False, owning=True
    )
    storage = from_dlpack(capsule).untyped_storage()
    strides = torch.empty(shape, device="meta").stride()
    return torch.empty(0, dtype=dtype, device=storage.device).set_(storage, 0, shape, strides)
