"""Memory of operations that failed: nobody gets it before the last peer has let go of it."""

from __future__ import annotations

import gc

import pytest

import pyparallel
from pyparallel.comm._retired import RETIRED
from pyparallel.errors import PeerFailedError
from pyparallel.memory import default_pool
from ranks import meet, run_ranks


def late_peer() -> None:
    """Rank 0 gives up and frees its tensor; rank 1 comes later and writes its part of the sum."""
    context = pyparallel.init()
    c, pool = context.communicator, default_pool("shared")
    tensor = c.empty(100_000).fill_(1)
    place = tensor.data_ptr()
    if c.rank == 0:
        work = c.all_reduce(tensor, background=False)
        c.abort("gives up")
        del tensor, work
        context.close()
        del context, c
        gc.collect()
        others = [pool.tensor(100_000).zero_() for _ in range(3)]
        assert all(abs(other.data_ptr() - place) >= 400_000 for other in others)
        meet("given up")
        meet("left")
        assert not any(other.any() for other in others)
    else:
        meet("given up")
        with pytest.raises(PeerFailedError, match="gives up"):
            c.all_reduce(tensor).wait()
        context.close()
        meet("left")
    pyparallel.init().communicator.empty(1)  # looks whether peers are through
    if pyparallel.init().rank == 0:
        assert len(RETIRED) == 0
        assert pool.tensor(100_000).data_ptr() == place


def test_memory_of_a_failed_operation_waits_for_the_peers() -> None:
    run_ranks(2, late_peer)


def nothing_failed() -> None:
    context = pyparallel.init()
    tensor = context.communicator.empty(100_000)
    for _ in range(3):
        context.communicator.all_reduce(tensor)
    context.communicator.barrier().wait()
    context.close()
    assert len(RETIRED) == 0
    del tensor
    gc.collect()
    assert default_pool("shared").statistics().live == 0


def test_memory_of_operations_that_ended_well_goes_back_at_once() -> None:
    run_ranks(2, nothing_failed)


def dropped() -> None:
    """The communicator goes without close(), while its operation waits for a peer."""
    c = pyparallel.init().communicator.split(0)
    assert c is not None
    rank = c.rank
    if rank == 0:
        c.all_reduce(c.empty(100_000), background=False)
        del c
        gc.collect()
        assert len(RETIRED) == 1
        meet("dropped")
        meet("closed")
        RETIRED.sweep()
        assert len(RETIRED) == 0
    else:
        meet("dropped")
        c.close()
        meet("closed")
    assert default_pool("shared").statistics().live == 0


def test_a_communicator_that_is_dropped_keeps_what_peers_may_touch() -> None:
    run_ranks(2, dropped)
