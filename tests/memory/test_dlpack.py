"""Blocks as tensors: no copy, freed exactly when their last view goes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
import torch

from pyparallel._native import core
from pyparallel.memory import MemoryPool

DTYPES = [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64, torch.uint8]
if hasattr(torch, "float8_e4m3fn"):
    DTYPES.append(torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (3, 5, 7), (1 << 20,)])
def test_a_tensor_is_contiguous_aligned_and_gives_its_block_back(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    pool = MemoryPool()
    tensor = pool.tensor(*shape, dtype=dtype)
    assert (tensor.shape, tensor.dtype, tensor.device.type) == (shape, dtype, "cpu")
    assert tensor.stride() == torch.empty(shape).stride()
    assert tensor.data_ptr() % 512 == 0
    assert not tensor._is_view()
    num_bytes = tensor.numel() * dtype.itemsize
    assert tensor.untyped_storage().nbytes() == num_bytes
    assert pool.statistics().live == max(512, -(-num_bytes // 512) * 512)
    tensor.zero_()
    view = tensor.reshape(-1)[1:]
    del tensor
    assert pool.statistics().live > 0
    del view
    assert pool.statistics().live == 0


def test_autograd_and_optimizers_take_such_tensors() -> None:
    pool = MemoryPool()
    weight = pool.tensor(4, 4).normal_().requires_grad_()
    (weight**2).sum().backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())
    torch.optim.SGD([weight], lr=0.5).step()
    assert not weight.any()


def test_numpy_and_torch_view_one_block() -> None:
    pool = MemoryPool()
    block = pool.allocate(1001)
    tensor, array = torch.from_dlpack(block), np.from_dlpack(block)
    assert (tensor.shape, tensor.dtype) == ((1001,), torch.uint8)
    assert (array.shape, array.dtype) == ((1001,), np.uint8)
    assert tensor.data_ptr() == array.ctypes.data == block.ptr
    tensor.fill_(7)
    assert (array == 7).all()
    assert array.flags.writeable
    with pytest.raises(ValueError, match="still viewed by 2 tensors"):
        pool.free(block)
    del tensor
    with pytest.raises(ValueError, match="still viewed by 1 tensors"):
        pool.free(block)
    del array
    pool.free(block)
    with pytest.raises(ValueError, match="no live block"):
        torch.from_dlpack(block)
    with pytest.raises(ValueError, match="no live block"):
        pool.free(block)


@pytest.mark.parametrize("version", [None, (0, 8), (1, 0), (1, 3)])
def test_a_capsule_that_nobody_takes_lets_go_of_the_block(version: tuple[int, int] | None) -> None:
    pool = MemoryPool()
    block = pool.allocate(10)
    capsule = block.__dlpack__(max_version=version)
    name = "dltensor_versioned" if version and version[0] >= 1 else "dltensor"
    assert f'"{name}"' in repr(capsule)
    with pytest.raises(ValueError, match="viewed by 1"):
        pool.free(block)
    del capsule
    pool.free(block)
    unused = core.dlpack(pool.native, pool.allocate(10).ptr, 10, -1, version is None, True)
    assert pool.statistics().live == 512
    del unused
    assert pool.statistics().live == 0


def test_a_capsule_is_consumed_once() -> None:
    pool = MemoryPool()
    block = pool.allocate(10)
    capsule = block.__dlpack__()
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    with pytest.raises(RuntimeError, match=r"(?i)capsule"):
        torch.utils.dlpack.from_dlpack(capsule)
    del capsule
    tensor.fill_(1)
    del tensor
    pool.free(block)


def test_a_block_that_is_freed_while_it_is_handed_over_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = MemoryPool()
    block = pool.allocate(10)

    class Interposed:  # what another thread may do between the checks and the view
        def dlpack(self, *args: object, **options: object) -> object:
            pool.free(block)
            return core.dlpack(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("pyparallel.memory.dlpack.core", Interposed())
    with pytest.raises(ValueError, match="no live block"):
        block.__dlpack__()
    other = pool.allocate(10)
    assert other.ptr == block.ptr
    pool.free(other)  # nothing views it


def test_what_cannot_be_handed_over_is_refused() -> None:
    pool = MemoryPool()
    block = pool.allocate(10)
    assert block.__dlpack_device__() == (1, 0)
    with pytest.raises(BufferError, match=r"\(1, 0\) cannot be had on \(2, 0\)"):
        block.__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="copy"):
        block.__dlpack__(copy=True)
    with pytest.raises(ValueError, match="stream 5: host memory has no streams"):
        block.__dlpack__(stream=5)
    with pytest.raises(ValueError, match=r"shape \(2, -1\)"):
        pool.tensor(2, -1)
    block.__dlpack__(dl_device=(1, 0), copy=False)
    pool.free(block)


def test_a_block_whose_free_failed_can_be_freed() -> None:
    pool = MemoryPool()
    block = pool.allocate(1000)
    view = block.__dlpack__()
    for _ in range(2):
        with pytest.raises(ValueError, match="still viewed by 1"):
            pool.free(block)
        assert not block.freed
    del view
    pool.free(block)
    assert block.freed
    assert pool.statistics().live == 0


def test_of_a_view_and_a_free_at_once_one_at_most_succeeds() -> None:
    pool = MemoryPool()

    def attempt(start: threading.Barrier, function: Callable[[], object]) -> None:
        start.wait(120)
        with suppress(ValueError):
            function()

    for _ in range(100):
        block, start = pool.allocate(1000), threading.Barrier(2)
        views: list[object] = []
        view = partial(lambda block, views: views.append(block.__dlpack__()), block, views)
        calls = view, partial(pool.free, block)
        # Threads that end: without a GIL what another thread drops waits for its maker to run.
        threads = [threading.Thread(target=attempt, args=(start, call)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not (block.freed and views)
        views.clear()
        if not block.freed:
            pool.free(block)
    assert pool.statistics().live == 0


def test_a_tensor_outlives_its_pool_and_ends_in_any_thread() -> None:
    tensor = MemoryPool().tensor(1000).fill_(3)
    assert tensor.sum() == 3000
    pool = MemoryPool()
    tensors = [pool.tensor(index) for index in range(200)]
    threads = [threading.Thread(target=tensors.clear) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.statistics().live == 0


def test_an_owned_block_is_freed_with_its_owner() -> None:
    pool = MemoryPool()
    owned = core.OwnedBlock(pool.native, 100, 0)
    assert pool.native.num_bytes(owned.data) == 512
    del owned
    assert pool.statistics().live == 0
