"""The pool on a device: hits beside torch's allocator and RMM, no growth, a captured step."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from pyparallel import optim
from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import MemoryPool, use_in_torch

UPSTREAMS = ["cuda", "cuda-vmm"]
MEGABYTE = 1 << 20


def view(pool: MemoryPool, count: int, stream: torch.cuda.Stream) -> torch.Tensor:
    return pool.tensor(count, dtype=torch.int32, stream=stream.cuda_stream)


@pytest.mark.parametrize("upstream", [*UPSTREAMS, "pinned"])
def test_streams_see_what_they_wrote(upstream, device, seed) -> None:
    """Blocks cross streams while work is pending; nobody's values change under him."""
    generator = torch.Generator().manual_seed(seed)
    pool = MemoryPool(upstream, device=device.index, limit=64 * MEGABYTE)
    streams = [torch.cuda.Stream(device) for _ in range(3)]
    wrong = torch.zeros(3, dtype=torch.int64, device=device)  # by stream
    torch.cuda.synchronize(device)
    for i in range(300):
        first, second = torch.randperm(3, generator=generator)[:2].tolist()
        one, other = streams[first], streams[second]
        block = pool.allocate(
            4 * int(torch.randint(1, 2 * MEGABYTE, (), generator=generator)), stream=one.cuda_stream
        )
        values = torch.from_dlpack(block).view(torch.int32)
        with torch.cuda.stream(one):
            if values.is_cuda:
                values.fill_(i)
            else:
                values.copy_(torch.full_like(values, i, device=device), non_blocking=True)
        other.wait_stream(one)
        with torch.cuda.stream(other):
            wrong[second] += (values.to(device, non_blocking=True) != i).sum()
        pool.use(block, stream=other.cuda_stream)
        del values
        pool.free(block)
    torch.cuda.synchronize(device)
    assert wrong.tolist() == [0, 0, 0]
    pool.trim()
    assert pool.statistics().reserved == 0


def test_pages_inside_a_range_are_used_elsewhere(device) -> None:
    pool = MemoryPool("cuda-vmm", device=device.index, limit=64 * MEGABYTE)
    blocks = [pool.allocate(8 * MEGABYTE) for _ in range(8)]
    for block in blocks[::2]:
        pool.free(block)
    large = pool.allocate(32 * MEGABYTE)  # no hole has that size
    torch.from_dlpack(large).zero_()
    torch.cuda.synchronize(device)
    assert pool.statistics().reserved == 64 * MEGABYTE
    with pytest.raises(OutOfMemoryError, match="limit is"):
        pool.allocate(1)


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_nothing_is_allocated_after_the_first_step(upstream, device) -> None:
    pool = MemoryPool(upstream, device=device.index)
    with use_in_torch(pool):
        model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(8)]).to(device)
        optimizer = optim.AdamW(model.parameters(), lr=1e-3)
        grown = []
        for _ in range(6):
            model(torch.randn(512, 1024, device=device)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            grown.append(pool.statistics().upstream_allocations)
    assert grown[-1] == grown[1], grown


@pytest.mark.parametrize("upstream", UPSTREAMS)
def test_a_step_is_captured_with_the_pools_memory(upstream, device) -> None:
    pool = MemoryPool(upstream, device=device.index, for_graph=True)
    stream = torch.cuda.Stream(device)
    source = torch.arange(MEGABYTE, dtype=torch.int32, device=device)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        partial = view(pool, MEGABYTE, stream)
        torch.mul(source, 2, out=partial)
        result = view(pool, MEGABYTE, stream)
        torch.add(partial, 1, out=result)
        del partial  # its block is the next one's
        again = view(pool, MEGABYTE, stream)
        torch.mul(result, 3, out=again)
    assert pool.trim() == 0
    for factor in (1, 5):
        source.copy_(torch.arange(MEGABYTE, device=device) * factor)
        graph.replay()
        torch.cuda.synchronize(device)
        expected = (torch.arange(MEGABYTE, dtype=torch.int32, device=device) * factor * 2 + 1) * 3
        assert bool((again == expected).all())


def nanoseconds(pair: Callable[[], object], count: int = 20_000) -> float:
    start = time.perf_counter_ns()
    for _ in range(count):
        pair()
    return (time.perf_counter_ns() - start) / count


def test_hits_beside_torchs_allocator_and_rmm(device) -> None:
    """Prints; through Python all of them pay more for the call than for the hit."""
    pool = MemoryPool("cuda-vmm", device=device.index)
    stream = torch.cuda.current_stream(device).cuda_stream
    ours = {"pyparallel": lambda: pool.native.free(pool.native.allocate(4096, stream))}
    peers = {
        "torch": lambda: torch.cuda.caching_allocator_delete(
            torch.cuda.caching_allocator_alloc(4096, device)
        )
    }
    try:
        import rmm
    except ImportError:
        print("RMM is not installed")
    else:
        resource = rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), 64 * MEGABYTE)
        peers["RMM"] = lambda: resource.deallocate(resource.allocate(4096), 4096)
    calls = ours | peers
    best = {name: min(nanoseconds(call) for _ in range(5)) for name, call in calls.items()}
    print({name: f"{value:.0f} ns" for name, value in best.items()})
    assert pool.statistics().upstream_allocations == 1
