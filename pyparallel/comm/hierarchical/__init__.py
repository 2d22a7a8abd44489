"""The communicator of several hosts."""

from pyparallel.comm.hierarchical.communicator import HierarchicalCommunicator, Split
from pyparallel.comm.hierarchical.hosts import Hosts
from pyparallel.comm.hierarchical.join import join

__all__ = ["HierarchicalCommunicator", "Hosts", "Split", "join"]
