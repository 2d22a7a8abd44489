"""One caching pool: blocks are cut from large segments and reused in stream order."""

from pyparallel.memory.pool import Block, MemoryPool, Statistics

__all__ = ["Block", "MemoryPool", "Statistics"]
