"""The name "pyparallel" in torch.distributed, and how a group of it comes together."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from pyparallel.comm.backend.identity import NAME
from pyparallel.comm.backend.process_group import PyparallelProcessGroup
from pyparallel.comm.of_group import timeout_of
from pyparallel.comm.rendezvous import connect


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
        ),
        store,
        options.timeout,
        options.global_ranks_in_group,
        int(os.environ.get("LOCAL_WORLD_SIZE", job_size)),
    )
