"""A rank that has died, failed or left before a new group is made is named, not waited for."""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from pyparallel.errors import PeerFailedError, PeerLostError
from ranks import Job, meet


def make_groups() -> None:
    dist.new_group([0, 1])
    dist.new_group([1, 2])  # of which rank 1 would be rank 0


def new_group_without(how: str) -> tuple[str, str, float]:
    dist.init_process_group("pyparallel", timeout=timedelta(seconds=60))
    meet("joined")
    if dist.get_rank() == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "failed":
            dist.group.WORLD.communicator.abort("no more data")  # type: ignore[union-attr]
        if how == "left":
            dist.destroy_process_group()
        meet("ended")
        return "", "", 0.0
    began = time.monotonic()
    with pytest.raises((PeerLostError, PeerFailedError)) as caught:
        make_groups()
    seconds = time.monotonic() - began
    if how != "killed":
        meet("ended")
    return type(caught.value).__name__, str(caught.value), seconds


@pytest.mark.parametrize(
    ("how", "hosts"), [("killed", "a"), ("failed", "a"), ("left", "a"), ("killed", "ab")]
)
def test_a_rank_that_will_not_come_to_a_new_group_is_named(how: str, hosts: str) -> None:
    def environment(rank: int) -> dict[str, str]:
        return {"PYPARALLEL_HOST": hosts[rank % len(hosts)]}

    with Job(3, new_group_without, how, environment=environment) as job:
        outcomes = job.outcomes()
    for rank in (0, 2):
        assert outcomes[rank].error is None, outcomes[rank].error
        kind, text, seconds = outcomes[rank].value
        assert kind == ("PeerFailedError" if how == "failed" else "PeerLostError")
        assert "rank 1" in text
        assert seconds < 20  # of the 60 that the store would have waited
