"""Captures on a device: steps in a pool's memory, and captures that no pool knows of."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pyparallel.memory import MemoryPool

UPSTREAMS = ["cuda", "cuda-vmm"]
MEGABYTE = 1 << 20

WHOLE_STEP = """
import copy, torch
from pyparallel import optim
from pyparallel.memory import MemoryPool, use_in_torch
pool = MemoryPool("cuda-vmm")
use_in_torch(pool, scope="whole process")
torch.manual_seed(SEED)
layers = [torch.nn.Linear(256, 512), torch.nn.GELU(), torch.nn.Linear(512, 256)]
model = torch.nn.Sequential(*layers).cuda()
twin = copy.deepcopy(model)
optimizers = [optim.AdamW(m.parameters(), lr=torch.tensor(1e-2).cuda()) for m in (model, twin)]
data = torch.randn(64, 256, device="cuda")

def step(model, optimizer):
    optimizer.zero_grad(set_to_none=True)
    loss = (model(data) - data).square().mean()
    loss.backward()
    optimizer.step()
    return loss

side = torch.cuda.Stream()
side.wait_stream(torch.cuda.current_stream())
with torch.cuda.stream(side):
    for _ in range(3):
        for pair in zip((model, twin), optimizers):
            step(*pair)
torch.cuda.current_stream().wait_stream(side)
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    captured = step(model, optimizers[0])
for _ in range(5):
    data.normal_()
    graph.replay()
    loss = step(twin, optimizers[1])
    assert torch.allclose(captured, loss, rtol=1e-5), (captured, loss)
for one, other in zip(model.parameters(), twin.parameters()):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
grown = pool.statistics().upstream_allocations
for _ in range(5):
    graph.replay()
    step(twin, optimizers[1])
assert pool.statistics().upstream_allocations == grown
del graph, captured, loss
torch.cuda.synchronize()
torch.cuda.empty_cache()
print("well")
"""


def view(pool: MemoryPool, count: int, stream: torch.cuda.Stream) -> torch.Tensor:
    return pool.tensor(count, dtype=torch.int32, stream=stream.cuda_stream)


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


def test_a_whole_step_is_captured_in_the_pools_memory(device, seed) -> None:
    source = WHOLE_STEP.replace("SEED", str(seed))
    probe = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert (probe.returncode, probe.stdout) == (0, "well\n"), probe.stderr


def on_thread(another: bool, work: Callable[[], None]) -> None:
    if another:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(work).result()
    else:
        work()


@pytest.mark.parametrize("another", [False, True], ids=["this thread", "another thread"])
@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
@pytest.mark.parametrize("upstream", [*UPSTREAMS, "pinned"])
def test_a_foreign_capture_is_left_alone_and_hinders_nothing(
    upstream, mode, another, device
) -> None:
    """Work is waited for, memory goes back and comes again, while somebody else captures."""
    pool = MemoryPool(upstream, device=device.index, limit=64 * MEGABYTE)
    own, other = torch.cuda.Stream(device), torch.cuda.Stream(device)
    source = torch.zeros(1000, dtype=torch.int32, device=device)
    late = torch.ones(8 * MEGABYTE, dtype=torch.int32, device=device)
    blocks = [pool.allocate(32 * MEGABYTE, stream=own.cuda_stream) for _ in range(2)]
    views = [torch.from_dlpack(block).view(torch.int32) for block in blocks]
    event = torch.cuda.Event()

    def use_late() -> None:
        for values in views:
            for stream in (own, other):
                stream.wait_event(event)
                with torch.cuda.stream(stream):
                    torch.cuda._sleep(20_000_000)
                    values.copy_(late, non_blocking=True)
                event.record(stream)

    def work() -> None:
        use_late()
        views.clear()
        for block in blocks:
            pool.use(block, stream=other.cuda_stream)
            pool.free(block)
        assert pool.trim() == 64 * MEGABYTE
        pool.free(pool.allocate(32 * MEGABYTE, stream=own.cuda_stream))
        pool.free(pool.allocate(64 * MEGABYTE, stream=other.cuda_stream))  # in place of the other

    event.record(own)
    use_late()  # what is loaded and made at first use is there before the capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        doubled = source * 2 + 1
        on_thread(another, work)
        tripled = doubled * 3
    source.fill_(4)
    graph.replay()
    torch.cuda.synchronize(device)
    assert (doubled == 9).all()
    assert (tripled == 27).all()
    pool.trim()
    assert pool.statistics().reserved == 0
