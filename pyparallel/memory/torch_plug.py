"""Torch's CUDA tensors from a pool: inside a `with` by torch.cuda.MemPool, or in the whole process.

::

    scope "pool":           torch's caching allocator -> segments from the pool
    scope "whole process":  every tensor, each a block of the pool
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from pyparallel._native import core
from pyparallel.memory.default_pools import default_pool, make_default
from pyparallel.memory.plug import Plug
from pyparallel.memory.pool import MemoryPool

Scope = Literal["pool", "whole process"]
# Torch frees its segments through these whenever it likes: they live as long as the process.
_torch_pools: dict[core.Pool, Any] = {}


def use_in_torch(pool: MemoryPool | None = None, *, scope: Scope = "pool") -> Plug:
    """Torch's CUDA tensors take their memory from a pool.

    Args:
        pool: of the device's memory; default: the process's own (of the current device for scope
            "pool", of each device otherwise).
        scope: "pool" is the safe one: it holds for this thread (not for threads it starts, such as
            those of backward) and the pool's device, beside all that torch has allocated before,
            and can be undone. "whole process" replaces torch's allocator for good, and so must come
            before anything initialises CUDA; CUDA graphs, record_stream and empty_cache go to the
            pool, torch.cuda.memory_stats() and snapshots do not know of it.

    Returns:
        In force already. That of scope "pool" is undone by its undo() or by the end of a `with`.

    Raises:
        ValueError: a torch without CUDA; a pool of another kind of memory; CUDA is initialised
            already, or the device has another default pool (scope "whole process").
    """
    if not hasattr(torch._C, "_cuda_customAllocator"):
        raise ValueError(
            f"use_in_torch: torch {torch.__version__} was built without CUDA, and its CPU tensors "
            "come from an allocator that cannot be replaced: use pool.tensor() or use_in_numpy()"
        )
    if pool is not None and pool.device < 0:
        raise ValueError(f"use_in_torch: CUDA tensors cannot lie in {pool.upstream} memory")
    if scope == "pool":
        return _use_in_scope(default_pool("cuda") if pool is None else pool)
    if scope == "whole process":
        return _use_in_process(pool)
    raise ValueError(f"use_in_torch: scope {scope!r} is neither 'pool' nor 'whole process'")


def _use_in_scope(pool: MemoryPool) -> Plug:
    torch_pool = _torch_pools.get(pool.native)
    if torch_pool is None:
        functions = core.torch_segment_functions(pool.native)
        allocator = torch._C._cuda_customAllocator(*functions)
        torch_pool = _torch_pools.setdefault(pool.native, torch.cuda.MemPool(allocator))
    context = torch.cuda.use_mem_pool(torch_pool, pool.device)
    context.__enter__()
    return Plug(f"torch from {pool!r}", lambda: _leave(context))


def _leave(context: Any) -> None:
    context.__exit__(None, None, None)


def _use_in_process(pool: MemoryPool | None) -> Plug:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        raise ValueError(
            "use_in_torch: CUDA is initialised already, and torch's allocator cannot be replaced "
            "any more: call it before the first use of a device, or use scope='pool'"
        )
    if pool is not None:
        make_default(pool)
    allocator = torch.cuda.memory.CUDAPluggableAllocator(
        core.__file__, "pyparallel_torch_allocate", "pyparallel_torch_free"
    )
    native = allocator.allocator()  # type: ignore[no-untyped-call]
    for setter, address in core.torch_hooks().items():
        getattr(native, setter)(address)
    torch.cuda.memory.change_current_allocator(allocator)
    what = "the default pools" if pool is None else repr(pool)
    return Plug(f"torch, in the whole process, from {what}", None)
