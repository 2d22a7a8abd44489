"""MemoryPool: whatever is allocated and freed in whatever order, the numbers are the truth."""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import Block, MemoryPool

SIZES = st.integers(0, 1 << 22) | st.sampled_from([0, 1, 511, 512, 513, 1 << 20, (1 << 21) + 1])


def rounded(num_bytes: int) -> int:
    return max(512, -(-num_bytes // 512) * 512)


class PoolMachine(RuleBasedStateMachine):
    """A pool with a limit beside a list of what is live."""

    LIMIT = 16 << 20

    def __init__(self) -> None:
        super().__init__()
        self.pool = MemoryPool(limit=self.LIMIT)
        self.live: dict[int, tuple[Block, int]] = {}
        self.allocations = self.peak = self.mark = 0

    @rule(num_bytes=SIZES, stream=st.integers(0, 2))
    def allocate(self, num_bytes: int, stream: int) -> None:
        try:
            block = self.pool.allocate(num_bytes, stream=stream)
        except OutOfMemoryError:
            # No hole has that size, or it would have been given.
            assert self.pool.statistics().largest_hole < rounded(num_bytes)
            return
        assert block.ptr % 512 == 0
        for other, _ in self.live.values():
            ends = block.ptr + rounded(num_bytes), other.ptr + rounded(other.num_bytes)
            assert ends[0] <= other.ptr or ends[1] <= block.ptr
        self.mark = self.mark % 255 + 1
        ctypes.memset(block.ptr, self.mark, num_bytes)
        self.live[block.ptr] = (block, self.mark)
        self.allocations += 1
        self.peak = max(self.peak, self.bytes())

    @precondition(lambda self: self.live)
    @rule(choice=st.integers(0, 1 << 30))
    def free(self, choice: int) -> None:
        block, mark = self.live.pop(list(self.live)[choice % len(self.live)])
        assert ctypes.string_at(block.ptr, block.num_bytes) == bytes([mark]) * block.num_bytes
        self.pool.free(block)
        with pytest.raises(ValueError, match="no live block"):
            self.pool.free(block)

    @rule()
    def trim(self) -> None:
        before = self.pool.statistics().reserved
        released = self.pool.trim()
        assert self.pool.statistics().reserved == before - released
        if not self.live:
            assert released == before

    def bytes(self) -> int:
        return sum(rounded(block.num_bytes) for block, _ in self.live.values())

    @invariant()
    def numbers_are_the_truth(self) -> None:
        s = self.pool.statistics()
        assert (s.live, s.live_peak) == (self.bytes(), self.peak)
        assert s.requested == sum(block.num_bytes for block, _ in self.live.values())
        assert (s.allocations, s.allocations - s.frees) == (self.allocations, len(self.live))
        assert s.live + s.pending <= s.reserved <= min(s.reserved_peak, self.LIMIT)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=30, stateful_step_count=40)


def test_mistakes_raise_with_the_numbers() -> None:
    pool, other = MemoryPool(limit=4 << 20), MemoryPool()
    block = pool.allocate(1 << 20)
    with pytest.raises(ValueError, match=f"{block.ptr:#x} is no live block of this pool"):
        other.free(block)
    with pytest.raises(OutOfMemoryError, match="4194304 bytes asked for; 1048576 bytes are live"):
        pool.allocate(4 << 20)
    with pytest.raises(OutOfMemoryError, match="limit is 4194304"):
        pool.allocate(1 << 62)
    with pytest.raises(ValueError, match="-1 is no number of bytes"):
        pool.allocate(-1)
    with pytest.raises(ValueError, match="18446744073709551616 is no number of bytes"):
        pool.allocate(1 << 64)
    with pytest.raises(ValueError, match="upstream 'disk' is none of"):
        MemoryPool("disk")
    with pytest.raises(ValueError, match="-5 bytes are negative"):
        MemoryPool(limit=-5)
    pool.free(block)


def test_a_block_freed_is_the_next_of_its_size() -> None:
    pool = MemoryPool()
    block = pool.allocate(3000)
    pool.free(block)
    assert pool.allocate(2800).ptr == block.ptr
    assert pool.statistics().upstream_allocations == 1
