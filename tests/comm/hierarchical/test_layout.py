"""Errors of one host's communicator name the ranks by their numbers in the job."""

from __future__ import annotations

from pyparallel.comm.hierarchical import Hosts
from pyparallel.comm.hierarchical.layout import in_the_job
from pyparallel.errors import CollectiveTimeoutError, PeerFailedError, PeerLostError

HOSTS = Hosts.of(["a/1", "b/1", "a/1", "b/1", "b/1"], [11, 12, 13, 14, 15])


def test_ranks_are_renamed() -> None:
    lost = in_the_job(
        PeerLostError("rank 1 (process 14) died; rank 0 was in all_reduce()", 1), HOSTS, 4
    )
    assert isinstance(lost, PeerLostError)
    assert lost.rank == 3
    assert str(lost) == "rank 3 (process 14) died; rank 1 was in all_reduce()"
    late = in_the_job(CollectiveTimeoutError("rank 2 waited 30 ms for rank 1"), HOSTS, 1)
    assert isinstance(late, CollectiveTimeoutError)
    assert str(late) == "rank 4 waited 30 ms for rank 3"


def test_the_words_of_a_rank_that_failed_are_left_alone() -> None:
    cause = "rank 9 of the grid is singular"
    failed = PeerFailedError(f"rank 1 failed in step(): {cause}; rank 0 was idle", 1, "step", cause)
    renamed = in_the_job(failed, HOSTS, 0)
    assert isinstance(renamed, PeerFailedError)
    assert (renamed.rank, renamed.operation, renamed.cause) == (2, "step", cause)
    assert str(renamed) == f"rank 2 failed in step(): {cause}; rank 0 was idle"
