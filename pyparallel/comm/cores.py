"""Whether this host has a core to spare for communication beside computation."""

from __future__ import annotations

import os

import torch


def has_free_core(local_ranks: int = 1) -> bool:
    """Whether a progress thread would find a core that no rank of this host computes on.

    Args:
        local_ranks: ranks on this host, where the launcher's environment does not say.
    """
    ranks = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", local_ranks))
    return len(os.sched_getaffinity(0)) > int(ranks) * torch.get_num_threads()
