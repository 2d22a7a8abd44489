"""One caching pool: blocks are cut from large segments and reused in stream order."""

from pyparallel.memory.cupy_plug import use_in_cupy
from pyparallel.memory.default_pools import default_pool
from pyparallel.memory.numpy_plug import use_in_numpy
from pyparallel.memory.plug import Plug
from pyparallel.memory.pool import Block, MemoryPool, Statistics
from pyparallel.memory.torch_plug import use_in_torch

__all__ = [
    "Block",
    "MemoryPool",
    "Plug",
    "Statistics",
    "default_pool",
    "use_in_cupy",
    "use_in_numpy",
    "use_in_torch",
]
