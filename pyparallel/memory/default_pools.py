"""The process's own pools, one per device: torch's symbols, planes and buffers share them."""

from __future__ import annotations

import torch

from pyparallel._native import core
from pyparallel.memory.pool import MemoryPool

# By the core's own: a forked child has others than its parent.
_pools: dict[core.Pool, MemoryPool] = {}


def default_pool(device: torch.device | str | int = "cpu") -> MemoryPool:
    """The pool of a device that everything in this process shares; made on first use.

    Args:
        device: "cpu", or a CUDA device or its index.

    Raises:
        ValueError: a device that this build has no memory of.
    """
    index = device_index(device)
    native = core.default_pool(index)
    found = _pools.get(native)
    if found is None:
        made = MemoryPool.of_native(native, "host" if index < 0 else "cuda-vmm", device=index)
        found = _pools.setdefault(native, made)
    return found


def make_default(pool: MemoryPool) -> None:
    """Makes a pool the default one of its device.

    Raises:
        ValueError: the device has another default pool already.
    """
    core.set_default_pool(pool.device, pool.native)
    _pools[pool.native] = pool


def device_index(device: torch.device | str | int) -> int:
    """-1 for the CPU, else the index of the CUDA device; without one, of the current device."""
    made = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if made.type == "cpu":
        return -1
    if made.type != "cuda":
        raise ValueError(f"there is no pool for device {made}, only for cpu and cuda")
    return torch.cuda.current_device() if made.index is None else made.index
