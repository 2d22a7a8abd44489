"""Where communicator.empty() and planes lie: in the process's default pools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import pyparallel
from pyparallel._native import core
from pyparallel.comm import SoloCommunicator
from pyparallel.memory import MemoryPool, default_pool, use_in_numpy
from ranks import run_ranks


def shared_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:pyparallel")


def foreign_memory() -> list[int]:
    """Counts the peers' segments that this rank has opened after each use."""
    c = pyparallel.init().communicator
    part = c.split(0)
    assert part is not None
    pool = MemoryPool("shared")
    with use_in_numpy(pool):
        array = np.full(100_000, c.rank + 1, dtype=np.float32)
    opened = [shared_mappings()]
    for tensor in (torch.from_numpy(array), pool.tensor(100_000), pool.tensor(100_001)[1:]):
        tensor.fill_(c.rank + 1)
        part.all_reduce(tensor).wait()
        c.all_reduce(tensor).wait()
        assert bool((tensor == 6).all())
        opened.append(shared_mappings() - opened[0])
    part.close()
    return opened[1:]


def test_memory_of_any_shared_pool_is_used_where_it_lies() -> None:
    assert run_ranks(2, foreign_memory) == [[1, 1, 1]] * 2


def test_alone_it_is_the_host_s_pool() -> None:
    pool = default_pool("cpu")
    before = pool.statistics().live
    for shape, dtype in (((1000, 3), torch.float32), ((5,), torch.uint8), ((), torch.int64)):
        pool.tensor(*shape, dtype=dtype).view(-1).view(torch.uint8).fill_(255)  # leaves values
        tensor = SoloCommunicator(torch.device("cpu")).empty(*shape, dtype=dtype)
        assert (tuple(tensor.shape), tensor.dtype, tensor.any().item()) == (shape, dtype, False)
        assert pool.statistics().live - before == max(512, -(-tensor.nbytes // 512) * 512)
        del tensor
    assert pool.statistics().live == before


def planes() -> None:
    context = pyparallel.init()
    pool = default_pool("shared" if context.world_size > 1 else "cpu")
    live = pool.statistics().live
    model = torch.nn.Linear(1000, 300)
    wrapped = pyparallel.DataParallel(model)
    wrapped(torch.ones(2, 1000)).sum().backward()
    gradient_bytes = sum(param.nbytes for param in model.parameters())
    assert pool.statistics().live - live >= gradient_bytes
    for param in model.parameters():
        assert param.grad is not None
        assert core.is_shared(param.grad.data_ptr()) is (context.world_size > 1)


def test_planes_of_gradients_lie_in_the_pool() -> None:
    run_ranks(1, planes)
    run_ranks(2, planes)
