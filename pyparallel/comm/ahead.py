"""ahead_of(): what is needed first overtakes what was issued before it."""

from __future__ import annotations

from pyparallel.comm.communicator import Communicator
from pyparallel.comm.hierarchical import HierarchicalCommunicator
from pyparallel.comm.shm import ShmCommunicator


def ahead_of(communicator: Communicator) -> Communicator:
    """A communicator of the same ranks whose operations go before those of `communicator`.

    Gathers of parameters that the next layer needs, say, before gradients in flight that nobody
    needs before the step. In shared memory, inside the hosts of a job too, the other's collectives
    pause between two pieces of at most 256 KiB while one of these is under way on all ranks. These
    run in the background whatever ``background`` says, so both always come to an end. Elsewhere
    (NCCL, torch's groups, between hosts) they run beside the other's. Messages keep their order.

    May be called for its result again: that goes before both. Each order of operations, on the one
    and on the other, is the same on all ranks; they may be interleaved differently. It fails and
    closes on its own.

    Args:
        communicator: all of its ranks call this; synchronises them.

    Raises:
        PeerLostError: a rank died or left meanwhile.
    """
    ahead = communicator.split(0, communicator.rank)
    assert ahead is not None
    first, second = _in_shared_memory(ahead), _in_shared_memory(communicator)
    if first is not None and second is not None:
        first.go_before(second)
    return ahead


def _in_shared_memory(communicator: Communicator) -> ShmCommunicator | None:
    if isinstance(communicator, HierarchicalCommunicator):
        return _in_shared_memory(communicator.own)
    return communicator if isinstance(communicator, ShmCommunicator) else None
