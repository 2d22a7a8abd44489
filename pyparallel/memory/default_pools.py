"""The process's own pools, one per device and kind of memory, which everything in it shares."""

from __future__ import annotations

import torch

from pyparallel._native import core
from pyparallel.memory.pool import MemoryPool

# By the core's own: a forked child has others than its parent.
_pools: dict[core.Pool, MemoryPool] = {}


# Kinds of the host's memory, by what the core calls them in place of a device.
_KINDS = {"shared": -2, "pinned": -3}


def default_pool(device: torch.device | str | int = "cpu") -> MemoryPool:
    """The pool of a device that everything in this process shares; made on first use.

    Args:
        device: "cpu" or -1, or a CUDA device or its index; or a kind of the host's memory:
            "shared", which other processes can map, or "pinned", from and to which devices copy.

    Raises:
        ValueError: a device that this build has no memory of.
    """
    index = _KINDS[device] if device in _KINDS else device_index(device)
    native = core.default_pool(index)
    found = _pools.get(native)
    if found is None:
        kinds = {-1: "host"} | {code: kind for kind, code in _KINDS.items()}
        made = MemoryPool.of_native(native, kinds.get(index, "cuda-vmm"), device=max(index, -1))
        found = _pools.setdefault(native, made)
    return found


def make_default(pool: MemoryPool) -> None:
    """Makes a pool the default one of its device, or of its kind of the host's memory.

    Raises:
        ValueError: the device has another default pool already.
    """
    _pools[pool.native] = pool  # before any thread can find the native one
    try:
        core.set_default_pool(_KINDS.get(pool.upstream, pool.device), pool.native)
    except ValueError:
        _pools.pop(pool.native, None)
        raise


def device_index(device: torch.device | str | int) -> int:
    """-1 for the CPU, else the index of the CUDA device; without one, of the current device."""
    if isinstance(device, int) and device < 0:
        if device == -1:  # MemoryPool.device of the host's memory
            return -1
        raise ValueError(f"there is no pool for device {device}")
    made = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if made.type == "cpu":
        return -1
    if made.type != "cuda":
        raise ValueError(f"there is no pool for device {made}, only for cpu and cuda")
    return torch.cuda.current_device() if made.index is None else made.index
