"""The input pipeline: batches are read, prepared and moved while the loop computes."""

from pyparallel.data.meter import Report, Stage
from pyparallel.data.prefetcher import Prefetcher
from pyparallel.data.staging import CopyEngine, Event, HostMemory, Staged, Transport

__all__ = [
    "CopyEngine",
    "Event",
    "HostMemory",
    "Prefetcher",
    "Report",
    "Stage",
    "Staged",
    "Transport",
]
