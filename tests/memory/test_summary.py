"""Summary: every byte of a snapshot is counted once."""

from __future__ import annotations

import random

import pytest

from pyparallel.memory import MemoryPool, snapshot, summary


def test_bytes_add_up(seed: int) -> None:
    random_ = random.Random(seed)
    pool = MemoryPool()
    with pool.record(frames=1):
        small = [pool.allocate(random_.randrange(4000)) for _ in range(50)]
        large = [pool.allocate(random_.randrange(1 << 20)) for _ in range(20)]
    for block in random_.sample(small, 20) + random_.sample(large, 10):
        pool.free(block)
    counted = summary.summarize(snapshot(pool))
    parts = (counted.requested, counted.rounding, counted.pending, counted.free)
    assert counted.reserved == sum(parts) == pool.statistics().reserved
    assert counted.free == sum(counted.holes)
    assert list(counted.holes) == sorted(counted.holes, reverse=True)
    assert [holding.blocks for holding in counted.holdings] == [10, 30]
    assert sum(holding.num_bytes for holding in counted.holdings) == counted.requested
    assert 0 <= counted.fragmentation < 1
    assert summary.summarize(snapshot(pool), device=1).reserved == 0


def test_both_names_of_a_pending_block_are_known() -> None:
    blocks = [{"size": 512, "state": state} for state in summary.PENDING]
    segment = {"address": 0, "total_size": 1024, "blocks": blocks}
    assert summary.summarize({"segments": [segment]}).pending == 1024
    with pytest.raises(KeyError):
        summary.summarize({"segments": [{"address": 0}]})


def test_an_empty_snapshot_has_no_fragmentation() -> None:
    assert summary.summarize({"segments": []}).fragmentation == 0


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.00 MiB"), (3 << 29, "1.50 GiB")],
)
def test_sizes_are_readable(num_bytes: int, text: str) -> None:
    assert summary.readable(num_bytes) == text
