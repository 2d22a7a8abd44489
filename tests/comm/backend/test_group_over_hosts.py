"""A "pyparallel" group whose ranks are on several hosts: the same calls, the same results."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from pyparallel.comm import HierarchicalCommunicator
from ranks import run_ranks


def two_hosts(rank: int) -> Mapping[str, str]:
    return {"PYPARALLEL_HOST": "ab"[rank // 2]}


def unmodified() -> None:
    dist.init_process_group("pyparallel")
    rank = dist.get_rank()
    assert isinstance(dist.group.WORLD.communicator, HierarchicalCommunicator)
    tensor = torch.full((70_001,), rank + 1.0)
    dist.all_reduce(tensor)
    assert bool((tensor == 10).all())
    gathered = [None] * 4
    dist.all_gather_object(gathered, {"rank": rank})
    assert gathered == [{"rank": other} for other in range(4)]
    across = dist.new_group([1, 2])  # one of each host
    if rank in (1, 2):
        part = torch.tensor([rank])
        dist.all_reduce(part, group=across)
        assert part.item() == 3
    torch.manual_seed(0)
    model = torch.nn.Linear(30, 20)
    inputs = torch.randn(4, 8, 30)
    model(inputs.flatten(0, 1)).square().mean().backward()
    expected = model.weight.grad.clone()
    model.zero_grad()
    wrapped = DistributedDataParallel(model)
    wrapped(inputs[rank]).square().mean().backward()
    torch.testing.assert_close(model.weight.grad, expected)
    dist.destroy_process_group()


def test_unmodified_code_runs_over_several_hosts() -> None:
    run_ranks(4, unmodified, environment=two_hosts)
