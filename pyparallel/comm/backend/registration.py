"""The name "pyparallel" in torch.distributed, and how a group of it comes together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from pyparallel.comm.backend.identity import NAME
from pyparallel.comm.backend.process_group import PyparallelProcessGroup
from pyparallel.comm.of_group import timeout_of
from pyparallel.comm.presence import check_present
from pyparallel.comm.rendezvous import Check, connect


def register() -> None:
    """Makes ``torch.distributed.init_process_group("pyparallel")`` known; twice is harmless."""
    dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu", "cuda"])


def _create(options: Any, _: Any) -> PyparallelProcessGroup:
    """A new group of the ranks that share a store; called by all of them."""
    rank, world_size = options.group_rank, options.group_size
    # A store outlives the groups made over it: torchrun's serves a job that joins again.
    generation = options.store.add(f"joined by {rank}", 1)
    store = PrefixStore(str(generation), options.store)
    job_size = dist.get_world_size() if dist.is_initialized() else world_size
    return PyparallelProcessGroup(
        connect(
            store,
            rank=rank,
            world_size=world_size,
            timeout_seconds=timeout_of(options.timeout.total_seconds()),
            check=_check(options.global_ranks_in_group),
        ),
        store,
        options.timeout,
        options.global_ranks_in_group,
        int(os.environ.get("LOCAL_WORLD_SIZE", job_size)),
    )


def _check(global_ranks: Sequence[int]) -> Check | None:
    """What the job's group, if it is there and ours, knows of the members of another one."""
    job = getattr(dist.group.WORLD, "communicator", None)
    if job is None:
        return None
    return lambda rank: check_present(
        job, global_ranks[rank] if global_ranks else rank, doing="new_group()"
    )
