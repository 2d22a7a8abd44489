"""One caching pool: blocks are cut from large segments and reused in stream order."""

from pyparallel.memory.planning import Divergence, PlannedSteps, PlanStatistics, plan_offsets
from pyparallel.memory.pool import Block, MemoryPool, Statistics

__all__ = [
    "Block",
    "Divergence",
    "MemoryPool",
    "PlanStatistics",
    "PlannedSteps",
    "Statistics",
    "plan_offsets",
]
