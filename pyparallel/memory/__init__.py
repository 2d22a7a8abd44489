"""One caching pool: blocks are cut from large segments and reused in stream order."""

from pyparallel.memory.block import Block
from pyparallel.memory.cupy_plug import use_in_cupy
from pyparallel.memory.default_pools import default_pool
from pyparallel.memory.leaks import Leak, LeakReport, assert_no_leak
from pyparallel.memory.numpy_plug import use_in_numpy
from pyparallel.memory.plug import Plug
from pyparallel.memory.pool import MemoryPool
from pyparallel.memory.recording import Recording
from pyparallel.memory.snapshots import dump_snapshot, load_snapshot, snapshot, stats
from pyparallel.memory.statistics import ClassStatistics, Idle, Statistics, StreamStatistics
from pyparallel.memory.timelines import dump_timeline, timeline
from pyparallel.memory.torch_plug import use_in_torch

__all__ = [
    "Block",
    "ClassStatistics",
    "Idle",
    "Leak",
    "LeakReport",
    "MemoryPool",
    "Plug",
    "Recording",
    "Statistics",
    "StreamStatistics",
    "assert_no_leak",
    "default_pool",
    "dump_snapshot",
    "dump_timeline",
    "load_snapshot",
    "snapshot",
    "stats",
    "timeline",
    "use_in_cupy",
    "use_in_numpy",
    "use_in_torch",
]
