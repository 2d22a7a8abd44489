"""CuPy from a pool: against a stand-in for its interface, and against CuPy where it is installed.

CuPy's own classes work without a GPU; its current device and stream are stood in for.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import MemoryPool, use_in_cupy


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: object, device_id: int = -1) -> None:
        assert device_id >= 0  # CuPy would ask the driver whose memory it is
        self.ptr, self.size, self.device_id, self._owner = ptr, size, device_id, owner


class MemoryPointer:
    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        assert mem.ptr != 0 or offset == 0
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)


class StandIn:
    """cupy.cuda, as far as allocators go (cupy/cuda/memory.pyx)."""

    UnownedMemory, MemoryPointer = UnownedMemory, MemoryPointer

    def __init__(self) -> None:
        self.device = types.SimpleNamespace()
        self._global: Any = lambda num_bytes: "of CuPy's own"
        self._of_thread = threading.local()

    def get_allocator(self) -> Any:
        return getattr(self._of_thread, "allocator", None) or self._global

    def set_allocator(self, allocator: Any = None) -> None:
        if getattr(self._of_thread, "allocator", None) is not None:
            raise ValueError(
                "Can't change the global allocator inside `using_allocator` context manager"
            )
        self._global = allocator

    @contextmanager
    def using_allocator(self, allocator: Any) -> Iterator[None]:
        self._of_thread.allocator = allocator
        yield
        self._of_thread.allocator = None

    def alloc(self, num_bytes: int) -> Any:
        return self.get_allocator()(num_bytes)


class Current:
    """The device and the stream that CuPy takes for the current ones."""

    stream, device = 0, 0


@pytest.fixture
def current() -> Current:
    return Current()


@pytest.fixture(params=["stand-in", "CuPy"])
def cuda(
    request: pytest.FixtureRequest, current: Current, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    if request.param == "CuPy":
        cuda = pytest.importorskip("cupy").cuda
    else:
        cuda = StandIn()
        monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(cuda.device, "get_device_id", lambda: current.device, raising=False)
    stream = lambda: types.SimpleNamespace(ptr=current.stream)  # noqa: E731
    monkeypatch.setattr(cuda, "get_current_stream", stream, raising=False)
    before = cuda.get_allocator()
    yield cuda
    assert cuda.get_allocator() == before


def device_pool(limit: int | None = None) -> MemoryPool:
    """A pool of the host that says to be of device 0."""
    pool = MemoryPool(limit=limit)
    pool.device, pool.upstream = 0, "cuda"
    return pool


def test_arrays_are_blocks_for_as_long_as_they_live(cuda: Any) -> None:
    pool = device_pool()
    with use_in_cupy(pool):
        pointers = [cuda.alloc(size) for size in (0, 1, 512, 100_000)]
    assert [pointer.mem.size for pointer in pointers] == [0, 1, 512, 100_000]
    assert {pointer.device_id for pointer in pointers} == {0}
    assert all(pointer.ptr % 512 == 0 for pointer in pointers)
    assert len({pointer.ptr for pointer in pointers}) == 4
    assert pool.statistics().live == 3 * 512 + 100_352
    slice_of_last = pointers[-1] + 1000
    thread = threading.Thread(target=pointers.clear)
    thread.start()
    thread.join()
    assert pool.statistics().live == 100_352
    del slice_of_last
    assert pool.statistics().live == 0


def test_an_array_keeps_its_pool(cuda: Any) -> None:
    pool = device_pool()
    with use_in_cupy(pool):
        pointer = cuda.alloc(1000)
    native = pool.native
    del pool
    assert native.statistics()["live"] == 1024
    del pointer
    assert native.statistics()["live"] == 0


def test_all_threads_get_blocks(cuda: Any) -> None:
    pool, live = device_pool(), []
    with use_in_cupy(pool):
        threads = [threading.Thread(target=lambda: live.append(cuda.alloc(1000))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert pool.statistics().live == 3 * 1024
    live.clear()
    assert pool.statistics().live == 0


def test_a_block_belongs_to_the_current_stream(cuda: Any, current: Current) -> None:
    pool = device_pool(limit=2 << 20)
    with use_in_cupy(pool):
        current.stream = 11
        first = cuda.alloc(3000)
        place = first.ptr
        del first
        second = cuda.alloc(3000)
        assert second.ptr == place  # the stream's own, from the thread's cache
        current.stream = 22
        third = cuda.alloc(3000)
        assert third.ptr != place


def test_a_call_holds_until_it_is_undone(cuda: Any) -> None:
    before = cuda.get_allocator()
    plug = use_in_cupy(device_pool())
    assert cuda.get_allocator() != before
    plug.undo()
    plug.undo()
    assert cuda.get_allocator() == before


def test_inside_using_allocator_cupy_refuses_and_nothing_is_changed(cuda: Any) -> None:
    pool = device_pool()
    mine = lambda num_bytes: None  # noqa: E731
    with cuda.using_allocator(mine), pytest.raises(ValueError, match="using_allocator"):
        use_in_cupy(pool)
    plug = use_in_cupy(pool)
    with cuda.using_allocator(mine):
        assert cuda.get_allocator() is mine  # this thread's goes first
        with pytest.raises(ValueError, match="using_allocator"):
            plug.undo()
    assert cuda.alloc(10).mem.size == 10  # still in force
    plug.undo()
    assert pool.statistics().allocations == 1


def test_mistakes_are_named(cuda: Any, current: Current) -> None:
    with pytest.raises(ValueError, match="cannot lie in host memory"):
        use_in_cupy(MemoryPool())
    with use_in_cupy(device_pool(limit=2 << 20)):
        with pytest.raises(OutOfMemoryError, match="3145728 bytes asked for"):
            cuda.alloc(3 << 20)
        current.device = 1
        with pytest.raises(ValueError, match="no memory of CuPy's current device 1"):
            cuda.alloc(100)


def test_without_cupy_the_import_fails_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match="cupy"):
        use_in_cupy(device_pool())
