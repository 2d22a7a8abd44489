"""CuPy's arrays from a pool, in the order of CuPy's current stream."""

from __future__ import annotations

import importlib
from typing import Any

from pyparallel._native import core
from pyparallel.memory.plug import Plug
from pyparallel.memory.pool import MemoryPool


def use_in_cupy(pool: MemoryPool) -> Plug:
    """The data of new CuPy arrays comes from a pool.

    A block belongs to the stream that is current when the array is made; it is used again in that
    stream's order once the array is gone. It holds for all threads of the process. An array goes
    back where it came from, and keeps the pool alive.

    Args:
        pool: of a device's memory.

    Returns:
        In force already; its undo(), or the end of a `with`, puts back the allocator there was.

    Raises:
        ImportError: CuPy is not installed.
        ValueError: a pool of host memory; and, when an array is made, a pool of another device than
            the current one. Here and in undo(), CuPy's own: inside `cupy.cuda.using_allocator`.
    """
    if pool.device < 0:
        raise ValueError(f"use_in_cupy: CuPy's arrays cannot lie in {pool.upstream} memory")
    cuda = importlib.import_module("cupy").cuda

    def allocate(num_bytes: int) -> Any:
        device = cuda.device.get_device_id()
        if device != pool.device:
            raise ValueError(f"{pool!r} has no memory of CuPy's current device {device}")
        block = core.OwnedBlock(pool.native, num_bytes, cuda.get_current_stream().ptr)
        memory = cuda.UnownedMemory(block.data, num_bytes, block, device)
        return cuda.MemoryPointer(memory, 0)

    before = cuda.get_allocator()
    cuda.set_allocator(allocate)
    return Plug(f"CuPy from {pool!r}", lambda: cuda.set_allocator(before))
