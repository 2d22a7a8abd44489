"""Slabs out of a MemoryPool; the copies themselves are tested in tests/gpu/test_prefetch_gpu.py."""

from __future__ import annotations

import torch

from fake_copies import FakeCopies
from pyparallel.data import Prefetcher, Staged
from pyparallel.data.cuda import memory_of
from pyparallel.memory import MemoryPool


def test_slabs_are_blocks_of_the_pool_and_go_back_to_it() -> None:
    pool, copies = MemoryPool(), FakeCopies()
    copies.allocate_host = lambda num_bytes: memory_of(pool, num_bytes)  # type: ignore[method-assign]
    sizes = [1, 300_000, 5, 1_000_000, 7, 1_000_001]
    given = [torch.randint(100, (size,)) for size in sizes]
    with Prefetcher(given, transport=Staged(copies)) as prefetcher:
        for expected, batch in zip(given, prefetcher, strict=True):
            assert torch.equal(copies.compute(batch), expected)
        assert pool.statistics().live >= 8 * 1_000_001
    assert pool.statistics().live == 0


def test_a_block_is_a_tensor_of_its_size_and_place() -> None:
    pool = MemoryPool()
    for num_bytes in (1, 513, 1 << 20):
        memory = memory_of(pool, num_bytes)
        assert memory.tensor.numel() == num_bytes
        assert memory.tensor.data_ptr() % 512 == 0
        memory.tensor.fill_(255)
        memory.release()
    assert pool.statistics().live == 0
