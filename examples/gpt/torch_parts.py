"""The baseline: torch's own parts under the names that pyparallel gives its own.

`init`, `DataParallel` and `optim.AdamW` stand for init_process_group with Gloo (NCCL on GPUs),
DistributedDataParallel and the fused AdamW, so that one training script runs on either;
`data.Prefetcher` stands for a plain loop.
"""

import atexit
import contextlib
import dataclasses
import functools
import os
import types
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

optim = types.SimpleNamespace(AdamW=functools.partial(torch.optim.AdamW, fused=True))


def _plain_loop(loader: Any, device: torch.device, *, depth: int) -> Any:
    """Reads nothing ahead: torch does that only for a Dataset, in other processes."""
    return contextlib.nullcontext(loader)


data = types.SimpleNamespace(Prefetcher=_plain_loop)


class _Done:
    """The work of a collective that has already finished."""

    def wait(self) -> None:
        """Returns at once."""


class _Communicator:
    """The collectives that the script uses, on the default process group."""

    def all_reduce(self, tensor: Tensor, op: str = "sum") -> _Done:
        """Reduces in place by "sum" or "mean"."""
        distributed.all_reduce(tensor)
        if op == "mean":
            tensor /= distributed.get_world_size()
        return _Done()

    def barrier(self) -> _Done:
        """Waits until all ranks are here."""
        distributed.barrier()
        return _Done()


@dataclasses.dataclass(frozen=True)
class Context:
    """What the script needs to know of the process group.

    `spans` is None because DistributedDataParallel does not say where its time goes.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    communicator: _Communicator = dataclasses.field(default_factory=_Communicator)
    spans: None = None


def init() -> Context:
    """Joins the process group of torchrun's environment, or makes one of a single process."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    # pyparallel may have made the same group already, as it does on GPUs.
    if not distributed.is_initialized():
        _make_group("nccl" if device.type == "cuda" else "gloo")
    return Context(distributed.get_rank(), distributed.get_world_size(), local_rank, device)


def _make_group(backend: str) -> None:
    if "RANK" in os.environ:
        distributed.init_process_group(backend)
    else:
        alone = distributed.HashStore()
        distributed.init_process_group(backend, store=alone, rank=0, world_size=1)
    atexit.register(distributed.destroy_process_group)


def DataParallel(model: nn.Module) -> DistributedDataParallel:  # noqa: N802 (pyparallel's name)
    """Wraps a model in the fastest variant, in which the gradients lie in their buckets."""
    return DistributedDataParallel(model, gradient_as_bucket_view=True)
