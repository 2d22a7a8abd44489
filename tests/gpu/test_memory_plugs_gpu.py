"""Torch and CuPy on a device, their memory from a pool: the same numbers, and all given back.

Of CuPy this needs a device: its current device and stream, and arrays in the pool's memory. What
its allocators are asked for is tested without one in tests/memory/test_cupy_plug.py.
"""

import subprocess
import sys

import pytest
import torch

from pyparallel.memory import MemoryPool, use_in_cupy, use_in_torch

WHOLE_PROCESS = """
import torch
from pyparallel.memory import MemoryPool, default_pool, use_in_torch
pool = MemoryPool("cuda", limit=1 << 30)
use_in_torch(pool, scope="whole process")
model = torch.nn.Linear(256, 256, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
side = torch.cuda.Stream()
for _ in range(5):
    data = torch.randn(64, 256, device="cuda")
    with torch.cuda.stream(side):
        side.wait_stream(torch.cuda.default_stream())
        copy = data * 2
        data.record_stream(side)
    torch.cuda.default_stream().wait_stream(side)
    loss = (model(data) - copy).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
assert torch.isfinite(loss)
assert default_pool(0) is pool and pool.statistics().live > 0
graph, still = torch.cuda.CUDAGraph(), torch.ones(1000, device="cuda")
torch.cuda.synchronize()
with torch.cuda.graph(graph):
    doubled = (still + 1) * 2
still.fill_(4)
graph.replay()
torch.cuda.synchronize()
assert (doubled == 10).all()
try:
    torch.empty(2 << 30, dtype=torch.uint8, device="cuda")
except RuntimeError as error:
    assert "2147483648 bytes asked for" in str(error), error
else:
    raise AssertionError("no error")
del graph, still, doubled
torch.cuda.empty_cache()
print("well")
"""


def test_inside_a_mem_pool(device):
    pool = MemoryPool("cuda", device=device.index)
    expected = torch.arange(1000, device=device)
    with use_in_torch(pool):
        tensor = torch.arange(1000, device=device)
        assert pool.statistics().live > 0
    assert torch.equal(tensor, expected)
    before = pool.statistics().live
    outside = torch.empty(64 << 20, device=device)
    assert pool.statistics().live == before
    del tensor, outside


def test_in_the_whole_process(device):
    probe = subprocess.run([sys.executable, "-c", WHOLE_PROCESS], capture_output=True, text=True)
    assert (probe.returncode, probe.stdout) == (0, "well\n"), probe.stderr


def test_tensors_by_dlpack(device):
    pool = MemoryPool("cuda", device=device.index)
    stream = torch.cuda.current_stream(device).cuda_stream
    tensor = pool.tensor(3, 5, dtype=torch.bfloat16, stream=stream)
    assert tensor.device == device
    assert (tensor.fill_(2) == 2).all()
    block = pool.allocate(100, stream=stream)
    view = torch.from_dlpack(block)
    assert view.device == device
    del tensor, view
    torch.cuda.synchronize(device)
    pool.free(block)
    assert pool.statistics().live == 0


def test_cupy_arrays(device):
    cupy = pytest.importorskip("cupy")
    pool = MemoryPool("cuda", device=device.index)
    with use_in_cupy(pool):
        array = cupy.arange(1000)
        assert pool.statistics().live == 8192
        assert int(array.sum()) == 499_500
    del array
    assert pool.statistics().live == 0


def test_cupy_arrays_outlive_their_streams_and_use_them_in_order(device):
    cupy = pytest.importorskip("cupy")
    pool = MemoryPool("cuda-vmm", device=device.index)
    with use_in_cupy(pool):
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            arrays = [cupy.full(1000, i) for i in range(50)]
            total = sum(arrays)
            empty = cupy.empty(0)
            values = cupy.asnumpy(total)
        del stream
    assert (values == 49 * 25).all()
    assert empty.size == 0
    assert pool.statistics().live > 0
    del arrays, total, empty
    assert pool.statistics().live == 0
    pool.trim()
    assert pool.statistics().reserved == 0
