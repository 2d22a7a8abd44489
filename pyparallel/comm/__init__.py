"""Communicators: collectives behind one protocol, over shared memory or torch's process groups."""

from pyparallel.comm.ahead import ahead_of
from pyparallel.comm.communicator import Algorithm, Communicator, Op, Premultiplied, Reduction, Work
from pyparallel.comm.hierarchical import HierarchicalCommunicator
from pyparallel.comm.nccl import NcclCommunicator
from pyparallel.comm.of_group import of_group, of_mesh
from pyparallel.comm.shm import ShmCommunicator
from pyparallel.comm.solo import SoloCommunicator
from pyparallel.comm.torch_group import GroupCommunicator

__all__ = [
    "Algorithm",
    "Communicator",
    "GroupCommunicator",
    "HierarchicalCommunicator",
    "NcclCommunicator",
    "Op",
    "Premultiplied",
    "Reduction",
    "ShmCommunicator",
    "SoloCommunicator",
    "Work",
    "ahead_of",
    "of_group",
    "of_mesh",
]
