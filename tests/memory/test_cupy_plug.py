"""CuPy from a pool, against a stand-in with CuPy's interface: no CuPy runs without a GPU."""

from __future__ import annotations

import sys
import threading
import types
from typing import Any

import pytest

from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import MemoryPool, use_in_cupy


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: Any, device_id: int) -> None:
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        self.mem, self.ptr = mem, mem.ptr + offset


class Cuda:
    """cupy.cuda, as far as its allocators go."""

    UnownedMemory, MemoryPointer = UnownedMemory, MemoryPointer

    def __init__(self) -> None:
        self.stream, self.current_device = 0, 0
        self.allocator: Any = "CuPy's own"
        self.device = types.SimpleNamespace(get_device_id=lambda: self.current_device)

    def get_allocator(self) -> Any:
        return self.allocator

    def set_allocator(self, allocator: Any) -> None:
        self.allocator = allocator

    def get_current_stream(self) -> Any:
        return types.SimpleNamespace(ptr=self.stream)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda()
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    return cuda


def device_pool(limit: int | None = None) -> MemoryPool:
    """A pool of the host that says to be of device 0."""
    pool = MemoryPool(limit=limit)
    pool.device, pool.upstream = 0, "cuda"
    return pool


def test_arrays_are_blocks_for_as_long_as_they_live(cuda: Cuda) -> None:
    pool = device_pool()
    with use_in_cupy(pool):
        pointers = [cuda.allocator(size) for size in (0, 1, 512, 100_000)]
    assert cuda.allocator == "CuPy's own"
    assert [pointer.mem.size for pointer in pointers] == [0, 1, 512, 100_000]
    assert all(pointer.ptr % 512 == 0 for pointer in pointers)
    assert len({pointer.ptr for pointer in pointers}) == 4
    assert pool.statistics().live == 3 * 512 + 100_352
    slice_of_last = MemoryPointer(pointers[-1].mem, 1000)
    threads = [threading.Thread(target=pointers.clear)]
    threads[0].start()
    threads[0].join()
    assert pool.statistics().live == 100_352
    del slice_of_last
    assert pool.statistics().live == 0


def test_a_block_belongs_to_the_current_stream(cuda: Cuda) -> None:
    pool = device_pool(limit=2 << 20)
    with use_in_cupy(pool):
        cuda.stream = 11
        first = cuda.allocator(3000)
        place = first.ptr
        del first
        second = cuda.allocator(3000)
        assert second.ptr == place  # the stream's own, from the thread's cache
        cuda.stream = 22
        third = cuda.allocator(3000)
        assert third.ptr != place


def test_a_call_holds_until_it_is_undone(cuda: Cuda) -> None:
    plug = use_in_cupy(device_pool())
    assert callable(cuda.allocator)
    plug.undo()
    plug.undo()
    assert cuda.allocator == "CuPy's own"


def test_mistakes_are_named(cuda: Cuda) -> None:
    with pytest.raises(ValueError, match="cannot lie in host memory"):
        use_in_cupy(MemoryPool())
    with use_in_cupy(device_pool(limit=2 << 20)):
        with pytest.raises(OutOfMemoryError, match="3145728 bytes asked for"):
            cuda.allocator(3 << 20)
        cuda.current_device = 1
        with pytest.raises(ValueError, match="no memory of CuPy's current device 1"):
            cuda.allocator(100)


def test_without_cupy_the_import_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="cupy"):
        use_in_cupy(device_pool())
