"""GroupCommunicator over Gloo: the same values as shared memory gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pyparallel.comm import GroupCommunicator
from ranks import run_ranks


def every_operation() -> None:
    dist.init_process_group("gloo")
    assert dist.group.WORLD is not None
    communicator = GroupCommunicator(dist.group.WORLD, torch.device("cpu"), owned=True)
    rank, world_size = communicator.rank, communicator.world_size
    for op, expected in (("sum", 3.0), ("mean", 1.5), ("max", 2.0), ("min", 1.0)):
        tensor = torch.full((1000,), float(rank + 1))
        work = communicator.all_reduce(tensor, op)  # type: ignore[arg-type]
        work.wait()
        assert work.is_completed()
        assert work.exception() is None
        assert bool((tensor == expected).all()), op
    tensor = torch.full((10,), float(rank))
    communicator.broadcast(tensor, 1).wait()
    assert bool((tensor == 1).all())
    whole = torch.empty(world_size * 2)
    communicator.all_gather(whole, torch.full((2,), float(rank))).wait()
    assert whole.tolist() == [0, 0, 1, 1]
    communicator.barrier().wait()
    with pytest.raises(ValueError, match="'product' is none of"):
        communicator.all_reduce(tensor, "product")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mean of torch.int64"):
        communicator.all_reduce(torch.ones(2, dtype=torch.int64), "mean")
    communicator.close()
    assert not dist.is_initialized()


def test_operations_over_gloo_are_right() -> None:
    run_ranks(2, every_operation)
