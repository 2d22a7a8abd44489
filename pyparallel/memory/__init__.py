"""One caching pool: blocks are cut from large segments and reused in stream order."""

from pyparallel.memory.leaks import Leak, LeakReport, assert_no_leak
from pyparallel.memory.pool import Block, MemoryPool, Statistics
from pyparallel.memory.recording import Recording
from pyparallel.memory.snapshots import dump_snapshot, load_snapshot, snapshot, stats
from pyparallel.memory.timelines import dump_timeline, timeline

__all__ = [
    "Block",
    "Leak",
    "LeakReport",
    "MemoryPool",
    "Recording",
    "Statistics",
    "assert_no_leak",
    "dump_snapshot",
    "dump_timeline",
    "load_snapshot",
    "snapshot",
    "stats",
    "timeline",
]
