"""The process's pools: one per device, the same for torch's symbols as for Python."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
import torch

from pyparallel._native import core
from pyparallel.memory import MemoryPool, default_pool
from pyparallel.memory.default_pools import make_default


def test_there_is_one_per_device() -> None:
    pool = default_pool()
    assert pool is default_pool("cpu") is default_pool(torch.device("cpu"))
    assert (pool.device, pool.upstream) == (-1, "host")
    before = pool.statistics().live
    tensor = pool.tensor(1000)
    assert pool.statistics().live == before + 4096
    del tensor
    assert pool.statistics().live == before


def test_a_pool_is_the_same_to_whoever_asks_while_it_becomes_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, found = MemoryPool(), []

    class Interposed:  # what another thread may do as soon as the core has the pool
        def set_default_pool(self, device: int, native: core.Pool) -> None:
            assert (device, native) == (-1, pool.native)
            found.append(default_pool("cpu"))

        def default_pool(self, device: int) -> core.Pool:
            return pool.native

    monkeypatch.setattr("pyparallel.memory.default_pools._pools", {})
    monkeypatch.setattr("pyparallel.memory.default_pools.core", Interposed())
    make_default(pool)
    assert found == [pool]


def test_kinds_of_host_memory_have_pools_of_their_own() -> None:
    shared = default_pool("shared")
    assert shared is default_pool("shared") is not default_pool("cpu")
    assert (shared.device, shared.upstream) == (-1, "shared")
    tensor = shared.tensor(1000)
    assert core.is_shared(tensor.data_ptr())
    assert not core.is_shared(default_pool("cpu").tensor(1000).data_ptr())
    with pytest.raises(ValueError, match="device -2 has a default pool already"):
        make_default(MemoryPool("shared"))
    if not core.features()["cuda"]:
        with pytest.raises(ValueError, match="pinned memory: this build of pyparallel has no CUDA"):
            default_pool("pinned")


def test_the_symbols_serve_from_it() -> None:
    library = ctypes.CDLL(core.__file__)
    allocate, free = library.pyparallel_torch_allocate, library.pyparallel_torch_free
    allocate.restype = ctypes.c_void_p
    allocate.argtypes = [ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    free.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    before = default_pool().statistics().live
    blocks = [allocate(size, -1, None) for size in (0, 0, 1, 1000)]
    assert len(set(blocks)) == 4
    assert all(block % 512 == 0 for block in blocks)
    assert default_pool().statistics().live == before + 3 * 512 + 1024
    for block, size in zip(blocks, (0, 0, 1, 1000), strict=True):
        free(block, size, -1, None)
    assert default_pool().statistics().live == before


def test_mistakes_are_named() -> None:
    assert default_pool(default_pool().device) is default_pool()
    with pytest.raises(ValueError, match="no pool for device -2"):
        default_pool(-2)
    with pytest.raises(ValueError, match="no pool for device meta"):
        default_pool("meta")
    if not core.features()["cuda"]:
        with pytest.raises(ValueError, match="this build of pyparallel has no CUDA"):
            default_pool(3)
    with pytest.raises(ValueError, match="there is no device 64"):
        core.default_pool(64)
    default_pool()
    with pytest.raises(ValueError, match="device -1 has a default pool already"):
        make_default(MemoryPool())
    make_default(default_pool())


PROBE = """
import os
import torch
from pyparallel.memory import MemoryPool, default_pool
from pyparallel.memory.default_pools import make_default
mine = MemoryPool(limit=8 << 20)
make_default(mine)
assert default_pool() is mine
tensor = mine.tensor(100).fill_(2)
child = os.fork()
if child == 0:
    other = default_pool()
    assert other is not mine and other.tensor(50).fill_(1).sum() == 50
    assert tensor.sum() == 200
    del tensor
    print("the child is well", flush=True)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert mine.statistics().live == 512
kept_until_exit = default_pool().tensor(10)
"""


def test_given_before_use_new_after_fork_quiet_at_exit() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert (probe.returncode, probe.stdout, probe.stderr) == (0, "the child is well\n", "")
