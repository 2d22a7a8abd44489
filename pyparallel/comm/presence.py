"""check_present(): whether a rank is still there, asked without an operation that it would join."""

from __future__ import annotations

import os
import select

from pyparallel.comm.communicator import Communicator
from pyparallel.comm.hierarchical import HierarchicalCommunicator
from pyparallel.comm.shm import ShmCommunicator
from pyparallel.errors import PeerFailedError, PeerLostError


def check_present(communicator: Communicator, rank: int, *, doing: str) -> None:
    """Raises if a rank will not come any more. Synchronises nobody.

    Args:
        communicator: that knows the rank.
        rank: in the communicator.
        doing: what this rank waits for it in, for the message.

    Raises:
        PeerLostError: it died or left.
        PeerFailedError: it said that it has failed.
    """
    if isinstance(communicator, HierarchicalCommunicator) and communicator.error is not None:
        raise communicator.error
    if not isinstance(communicator, ShmCommunicator):
        return
    seen = communicator.flight_record()["ranks"][rank]
    where = f"rank {communicator.rank} waited for it in {doing}"
    if seen["failure"] is not None:
        cause = seen["failure"]
        raise PeerFailedError(f"rank {rank} failed: {cause}; {where}", rank, "", cause)
    if seen["left"] or not _runs(seen["process"]):
        how = "left and closed its communicator" if seen["left"] else "died"
        raise PeerLostError(f"rank {rank} (process {seen['process']}) {how}; {where}", rank)


def _runs(process: int) -> bool:
    """Whether a process of this host runs; one that ended and was not waited for does not."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return False
    try:
        return not select.select([descriptor], [], [], 0)[0]
    finally:
        os.close(descriptor)
