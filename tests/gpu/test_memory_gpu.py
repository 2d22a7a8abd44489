"""The pool on a device: hits beside torch's allocator and RMM, no growth, torch's snapshots."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch.cuda import _memory_viz

from pyparallel import optim
from pyparallel._native import core
from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import (
    MemoryPool,
    load_snapshot,
    replay,
    snapshot,
    summary,
    traces,
    use_in_torch,
)

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
def test_nearly_all_of_a_device_is_had_and_given_back(upstream, device) -> None:
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    pool = MemoryPool(upstream, device=device.index)
    for _ in range(2):
        block = pool.allocate(free // 10 * 9)
        values = torch.from_dlpack(block)
        values[0], values[-1] = 1, 2
        assert int(values[0]) + int(values[-1]) == 3
        with pytest.raises(OutOfMemoryError):
            pool.allocate(free // 2)
        del values
        pool.free(block)
        assert pool.trim() == pool.statistics().reserved_peak
    assert torch.cuda.mem_get_info(device)[0] > free // 10 * 9


def test_default_streams_of_threads_are_streams_of_their_own(device) -> None:
    """What one of them frees waits for it, or for the device, whatever the handle is called."""
    per_thread = 2  # cudaStreamPerThread
    pool = MemoryPool("cuda-vmm", device=device.index)
    places = []

    def work() -> None:
        for _ in range(2):
            block = pool.allocate(4096, stream=per_thread)
            places.append(block.ptr)
            pool.free(block)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert places[0] == places[1]
    block = pool.allocate(4096, stream=per_thread)
    assert block.ptr != places[0]
    pool.free(block)
    pool.trim()
    assert pool.statistics().reserved == 0


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


def test_torchs_own_snapshot_opens(device, tmp_path) -> None:
    """In ours; and ours of the same pool in torch's viewer."""
    torch.cuda.memory._record_memory_history(max_entries=10_000)
    try:
        held = [torch.empty(i * MEGABYTE, dtype=torch.uint8, device=device) for i in range(1, 9)]
        del held[::2]
        live = torch.cuda.memory_allocated(device)
        torch.cuda.memory._dump_snapshot(str(tmp_path / "torch.pickle"))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    counted = summary.summarize(load_snapshot(tmp_path / "torch.pickle"), device=device.index)
    assert counted.reserved == torch.cuda.memory_reserved(device)
    assert counted.requested + counted.rounding == live
    trace = traces.load(tmp_path / "torch.pickle", device=device.index)
    assert len(trace) >= 12
    assert 0 < replay.replay(trace).utilisation <= 1
    pool = MemoryPool("cuda-vmm", device=device.index)
    with pool.record():
        blocks = [pool.allocate(i * MEGABYTE) for i in range(1, 9)]
        pool.free(blocks[3])
        ours = snapshot(pool)
    assert "total_allocated" in _memory_viz.segsum(ours)
    assert "snapshot.pickle" in _memory_viz.trace_plot(ours)


def nanoseconds(pair: Callable[[], object], count: int = 20_000) -> float:
    start = time.perf_counter_ns()
    for _ in range(count):
        pair()
    return (time.perf_counter_ns() - start) / count


def from_cpp(pool: MemoryPool, pairs: int = 1_000_000) -> float:
    core.repeat_allocations(pool.native, 4096, pairs, 1)
    start = time.perf_counter_ns()
    core.repeat_allocations(pool.native, 4096, pairs, 1)
    return (time.perf_counter_ns() - start) / pairs


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
        rmm = None
    else:
        resource = rmm.mr.PoolMemoryResource(rmm.mr.CudaMemoryResource(), 64 * MEGABYTE)
        peers["RMM"] = lambda: resource.deallocate(resource.allocate(4096), 4096)
    calls = ours | peers
    rounds = [{name: nanoseconds(call) for name, call in calls.items()} for _ in range(7)]
    found = [f"{name} {statistics.median(r[name] for r in rounds):.0f} ns" for name in calls]
    if rmm is None:
        found.append("RMM is not installed")
    cpp = statistics.median(from_cpp(pool) for _ in range(7))
    print(f"\nmedian hits: from Python {', '.join(found)}; from C++ pyparallel {cpp:.0f} ns")
    assert pool.statistics().upstream_allocations == 1
