"""NumPy's arrays from a pool, by its own data memory handlers (NEP 49)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from pyparallel._native import core
from pyparallel.memory.plug import Plug
from pyparallel.memory.pool import MemoryPool


def use_in_numpy(pool: MemoryPool) -> Plug:
    """The data of new NumPy arrays comes from a pool, aligned to 512 bytes.

    NumPy keeps the handler in a context variable: it holds for this thread, or this asynchronous
    task, and not for threads started later. An array goes back where it came from, whenever and by
    whichever thread it is freed; it keeps the pool alive. Where the pool has no memory, NumPy
    raises MemoryError. Zeroed arrays are written when they are made.

    Args:
        pool: of memory that the host reads and writes.

    Returns:
        In force already; its undo(), or the end of a `with`, puts back the handler there was.

    Raises:
        ValueError: a pool of device memory.
    """
    if not isinstance(pool, MemoryPool):
        raise TypeError(f"use_in_numpy: {type(pool).__name__} is no MemoryPool")
    if pool.device >= 0:
        raise ValueError(f"use_in_numpy: NumPy cannot read {pool.upstream} memory")
    functions = _numpy_functions()
    before = core.set_numpy_handler(functions, core.numpy_handler(pool.native))
    return Plug(f"NumPy from {pool!r}", lambda: _put_back(functions, before))


def _put_back(functions: Any, handler: Any) -> None:
    core.set_numpy_handler(functions, handler)


def _numpy_functions() -> Any:
    package = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"
    return importlib.import_module(f"{package}.multiarray")._ARRAY_API
