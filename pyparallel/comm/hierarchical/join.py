"""join(): the ranks of several hosts become one communicator."""

from __future__ import annotations

from collections.abc import Callable

from torch._C._distributed_c10d import PrefixStore, Store

from pyparallel.comm._flight_recorder import FlightRecorder
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.hierarchical.between import Between
from pyparallel.comm.hierarchical.communicator import HierarchicalCommunicator, Split
from pyparallel.comm.hierarchical.failures import Failures
from pyparallel.comm.hierarchical.hosts import Hosts, own_address
from pyparallel.comm.hierarchical.layout import Layout, in_the_job
from pyparallel.errors import PyparallelError


def join(
    store: Store,
    hosts: Hosts,
    rank: int,
    meet: Callable[[], Communicator],
    split: Split,
    *,
    timeout_seconds: float,
) -> HierarchicalCommunicator:
    """Joins the other ranks; collective. A rank that is lost on the way is named.

    Args:
        store: where only these ranks meet, and only for this call.
        hosts: which rank is where.
        rank: of this process.
        meet: joins the ranks of this host.
        split: makes the parts of a communicator.
        timeout_seconds: deadline of this call and of every later operation.
    """
    address = own_address()
    # Number 0 is what connects the hosts.
    flights = FlightRecorder(PrefixStore("flight", store), rank, len(hosts.host_of), first=0)
    failures = Failures(hosts, rank, flights)
    # First, so that the loss of any rank is known while the others still come.
    failures.watch(PrefixStore("watch", store), address, timeout_seconds=timeout_seconds)
    try:
        own = meet()
    except PyparallelError as error:
        raise failures.explain(in_the_job(error, hosts, rank), "init") from None
    between = Between(hosts, rank, timeout_seconds=timeout_seconds)
    layout = Layout(hosts, rank, own, between)
    communicator = HierarchicalCommunicator(layout, failures, flights, split)
    communicator.connect(lambda: between.connect(PrefixStore("gloo", store), address))
    return communicator
