"""Point to point through torch.distributed: tags, any source, batches, sizes and layouts."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from ranks import errors_of_ranks
from torch_job import drawn, run_torch_job, scattered


def ring(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    right, left = (rank + 1) % world, (rank - 1) % world
    for count in (0, 1, 999, 100_000, 2_000_000):  # the last is 8 MB: more than fits any buffer
        for dtype in (torch.float32, torch.bool, torch.complex64):
            parts = drawn(seed, world, count, dtype=dtype)
            for lay in (torch.clone, scattered):
                if count > 100_000 and (dtype != torch.float32 or lay is scattered):
                    continue
                received = lay(torch.zeros_like(parts[0]))
                batch = [
                    dist.P2POp(dist.isend, lay(parts[rank]), right),
                    dist.P2POp(dist.irecv, received, left),
                ]
                for work in dist.batch_isend_irecv(batch):
                    work.wait()
                assert torch.equal(received, parts[left]), (count, dtype, lay)


def pairs(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    first, second = drawn(seed, 2, 5000)
    # Tags decide, not the order of the calls; collectives may lie between.
    if rank == 0:
        works = [dist.isend(first, 1, tag=7), dist.isend(second, 1, tag=3)]
        dist.barrier()
        for work in works:
            assert work is not None
            work.wait()
            assert work.is_completed()
    elif rank == 1:
        a, b = torch.empty(5000), torch.empty(5000)
        later = dist.irecv(b, 0, tag=3)
        dist.barrier()
        assert later is not None
        later.wait()
        assert dist.recv(a, 0, tag=7) == 0
        assert torch.equal(a, first)
        assert torch.equal(b, second)
    else:
        dist.barrier()
    # Whoever sends first.
    if rank == 0:
        tensor = torch.empty(1)
        sources = []
        for _ in range(world - 1):
            sources.append(dist.recv(tensor))
            assert tensor.item() == sources[-1]
        assert sorted(sources) == list(range(1, world))
        work = dist.irecv(tensor, tag=5)
        assert work is not None
        work.wait()
        assert work._source_rank() == 1 == tensor.item()
    else:
        dist.send(torch.tensor([float(rank)]), 0)
        if rank == 1:
            dist.send(torch.tensor([1.0]), 0, tag=5)
    # Objects, and a future.
    if rank == 0:
        dist.send_object_list(["text", {"seed": seed}], 1)
        work = dist.isend(first, 1)
        assert work is not None
        work.get_future().wait()
    elif rank == 1:
        objects = [None, None]
        dist.recv_object_list(objects, 0)
        assert objects == ["text", {"seed": seed}]
        work = dist.irecv(first.zero_(), 0)
        assert work is not None
        assert torch.equal(work.get_future().wait()[0], drawn(seed, 2, 5000)[0])


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("function", [ring, pairs], ids=lambda function: function.__name__)
def test_messages_arrive(function: object, world_size: int, seed: int) -> None:
    assert callable(function)
    run_torch_job(world_size, function, seed)


def send_to_a_bad_rank() -> None:
    dist.init_process_group("pyparallel")
    group = dist.group.WORLD
    assert group is not None
    group.send([torch.ones(3)], dist.get_rank(), 0)


def test_a_message_to_oneself_is_refused_by_name() -> None:
    for error in errors_of_ranks(2, send_to_a_bad_rank):
        assert isinstance(error, ValueError)
        assert "this rank itself" in str(error)
