"""Torch from a pool without CUDA: stand-ins call what torch would call."""

from __future__ import annotations

import contextlib
import ctypes
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pyparallel._native import core
from pyparallel.memory import MemoryPool, use_in_torch
from pyparallel.memory import torch_plug as module

ALLOCATE = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, use_errno=False
)
FREE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p, use_errno=False
)


class Allocator:
    """As torch._C._cuda_customAllocator makes it: two addresses, and setters of hooks."""

    def __init__(self, allocate: int, free: int) -> None:
        self.allocate, self.free = ALLOCATE(allocate), FREE(free)
        self.hooks: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("set_"):
            raise AttributeError(name)
        return lambda address: self.hooks.__setitem__(name, address)


class Torch:
    """What of torch's CUDA the plug uses, over memory of the host."""

    def __init__(self) -> None:
        self.is_initialized = False
        self.active: list[Any] = []
        self.current: Any = None

    @contextlib.contextmanager
    def use_mem_pool(self, pool: Any, device: int) -> Iterator[None]:
        self.active.append((pool, device))
        try:
            yield
        finally:
            self.active.pop()

    def pluggable(self, path: str, allocate: str, free: str) -> Any:
        library = ctypes.CDLL(path)
        addresses = [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in (allocate, free)
        ]
        made = Allocator(*addresses)
        return types.SimpleNamespace(allocator=lambda: made)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Torch:
    fake = Torch()
    patch = monkeypatch.setattr
    patch(torch._C, "_cuda_customAllocator", Allocator, raising=False)
    patch(torch.cuda, "MemPool", lambda allocator: types.SimpleNamespace(allocator=allocator))
    patch(torch.cuda, "use_mem_pool", fake.use_mem_pool)
    patch(torch.cuda, "is_initialized", lambda: fake.is_initialized)
    patch(torch.cuda.memory, "CUDAPluggableAllocator", fake.pluggable)
    patch(
        torch.cuda.memory,
        "change_current_allocator",
        lambda allocator: setattr(fake, "current", allocator.allocator()),
    )
    patch(module, "_torch_pools", {})
    return fake


def device_pool(limit: int | None = None) -> MemoryPool:
    """A pool of the host that says to be of device 0."""
    pool = MemoryPool(limit=limit)
    pool.device, pool.upstream = 0, "cuda"
    return pool


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch has CUDA")
def test_a_torch_without_cuda_is_told_what_else_there_is() -> None:
    with pytest.raises(ValueError, match=r"was built without CUDA.*pool\.tensor\(\)"):
        use_in_torch()


def test_inside_the_context_segments_are_the_pools(fake: Torch) -> None:
    pool, other = device_pool(), device_pool()
    with use_in_torch(pool) as plug:
        (torch_pool, device) = fake.active[-1]
        assert device == 0
        block = torch_pool.allocator.allocate(2 << 20, 0, None)
        assert pool.statistics().live == 2 << 20
        with use_in_torch(other):
            assert fake.active[-1][0] is not torch_pool
            second = fake.active[-1][0].allocator
            inner = second.allocate(512, 0, None)
        assert fake.active[-1][0] is torch_pool
    assert fake.active == []
    assert "undone" in repr(plug)
    plug.undo()  # nothing more
    with use_in_torch(pool):
        assert fake.active[-1][0] is torch_pool  # with what torch keeps of it
    torch_pool.allocator.free(block, 2 << 20, 0, None)
    second.free(inner, 512, 0, None)
    assert pool.statistics().live == other.statistics().live == 0


def test_a_call_holds_until_it_is_undone(fake: Torch) -> None:
    plug = use_in_torch(device_pool())
    assert len(fake.active) == 1
    plug.undo()
    assert fake.active == []


def test_short_memory_is_null_where_torch_looks_at_it(fake: Torch) -> None:
    with use_in_torch(device_pool(limit=4 << 20)):
        allocator = fake.active[-1][0].allocator
        assert allocator.allocate(8 << 20, 0, None) is None
        block = allocator.allocate(4 << 20, 0, None)
        assert block
        allocator.free(block, 4 << 20, 0, None)


def test_the_whole_process_gets_every_hook(fake: Torch, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[MemoryPool] = []
    monkeypatch.setattr(module, "make_default", given.append)
    pool = device_pool()
    plug = use_in_torch(pool, scope="whole process")
    assert given == [pool]
    assert fake.current.hooks == core.torch_hooks()
    assert set(fake.current.hooks) == {
        "set_record_stream_fn",
        "set_reset_fn",
        "set_memory_fraction_fn",
        "set_base_alloc_fn",
        "set_begin_allocate_to_pool",
        "set_end_allocate_to_pool_fn",
        "set_release_pool",
    }
    block = fake.current.allocate(100, -1, None)
    fake.current.free(block, 100, -1, None)
    with pytest.raises(ValueError, match="cannot be undone"):
        plug.undo()
    with pytest.raises(ValueError, match="no context"), plug:
        pass


def test_mistakes_are_named(fake: Torch) -> None:
    with pytest.raises(ValueError, match="cannot lie in host memory"):
        use_in_torch(MemoryPool())
    with pytest.raises(ValueError, match="scope 'thread' is neither"):
        use_in_torch(device_pool(), scope="thread")
    fake.is_initialized = True
    with pytest.raises(ValueError, match="CUDA is initialised already"):
        use_in_torch(scope="whole process")
    assert fake.current is None
