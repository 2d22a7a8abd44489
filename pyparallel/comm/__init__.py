"""Communicators: collectives behind one protocol, over shared memory or torch's process groups."""

from pyparallel.comm.communicator import Communicator, Reduction, Work
from pyparallel.comm.shm import ShmCommunicator
from pyparallel.comm.solo import SoloCommunicator
from pyparallel.comm.torch_group import GroupCommunicator

__all__ = [
    "Communicator",
    "GroupCommunicator",
    "Reduction",
    "ShmCommunicator",
    "SoloCommunicator",
    "Work",
]
