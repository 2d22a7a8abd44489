"""The NCCL group that carries a group's CUDA tensors: torch's own, made with the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store

from pyparallel.comm.communicator import Communicator


def nccl_group(
    device: torch.device,
    store: Store,
    communicator: Communicator,
    *,
    timeout: timedelta,
    name: str,
    global_ranks: Sequence[int],
) -> Any:
    """A process group of NCCL between the communicator's ranks. Synchronises nobody yet.

    Args:
        device: of the tensors.
        store: shared by the ranks.
        communicator: gives rank and world size.
        timeout: of NCCL's operations.
        name: of the group.
        global_ranks: the members' ranks in the job; empty for the whole job.

    Raises:
        ValueError: the device is no CUDA device, or torch has no NCCL.
    """
    if device.type != "cuda":
        raise ValueError(f"the pyparallel backend carries tensors on cpu and cuda, not {device}")
    if not dist.is_nccl_available():
        raise ValueError(f"tensors on {device} need NCCL, which this torch was built without")
    options: Any = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    options.group_name = name
    options.global_ranks_in_group = list(global_ranks)
    rank, world_size = communicator.rank, communicator.world_size
    backend = dist.ProcessGroupNCCL(store, rank, world_size, options)
    return over(backend, dist.ProcessGroup.BackendType.NCCL, device.type, store, name)


def over(backend: Any, kind: Any, device_type: str, store: Store, name: str) -> Any:
    """A process group of torch with one backend for one type of device."""
    group: Any = dist.ProcessGroup(store, backend.rank(), backend.size())
    group._set_default_backend(kind)
    group._register_backend(torch.device(device_type), kind, backend)
    group._set_group_name(name)
    return group
