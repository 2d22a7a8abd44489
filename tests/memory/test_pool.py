"""MemoryPool: whatever is allocated and freed in whatever order, the numbers are the truth."""

from __future__ import annotations

import ctypes
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import Block, MemoryPool, use_in_numpy

SIZES = st.integers(0, 1 << 22) | st.sampled_from([0, 1, 511, 512, 513, 1 << 20, (1 << 21) + 1])


ADDRESS, SIZE, STREAM, STATE = 0, 1, 4, 6  # of a listed block


def rounded(num_bytes: int) -> int:
    return max(512, -(-num_bytes // 512) * 512)


class PoolMachine(RuleBasedStateMachine):
    """Two pools with a limit and the same history, beside a list of what is live."""

    UPSTREAM = "host"
    LIMIT = 16 << 20

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.twin = (MemoryPool(self.UPSTREAM, limit=self.LIMIT) for _ in range(2))
        self.live: list[tuple[Block, Block, int]] = []
        self.allocations = self.peak = self.mark = 0
        self.origins: tuple[int, int] | None = None

    @rule(num_bytes=SIZES, stream=st.integers(0, 2))
    def allocate(self, num_bytes: int, stream: int) -> None:
        try:
            block = self.pool.allocate(num_bytes, stream=stream)
        except OutOfMemoryError as error:
            message = str(error)
            said = f"{num_bytes} bytes asked for; {self.bytes()} bytes are live"
            if said not in message:
                pytest.fail(f"not {said}: {message}")
            # No hole has that size, or it would have been given.
            assert self.pool.statistics().largest_hole < rounded(num_bytes)
            with pytest.raises(OutOfMemoryError):
                self.twin.allocate(num_bytes, stream=stream)
            return
        twin = self.twin.allocate(num_bytes, stream=stream)
        assert block.ptr % 512 == twin.ptr % 512 == 0
        self.origins = self.origins or (block.ptr, twin.ptr)
        assert block.ptr - self.origins[0] == twin.ptr - self.origins[1]
        for other, _, _ in self.live:
            ends = block.ptr + rounded(num_bytes), other.ptr + rounded(other.num_bytes)
            assert ends[0] <= other.ptr or ends[1] <= block.ptr
        self.mark = self.mark % 255 + 1
        ctypes.memset(block.ptr, self.mark, num_bytes)
        self.live.append((block, twin, self.mark))
        self.allocations += 1
        self.peak = max(self.peak, self.bytes())

    @precondition(lambda self: self.live)
    @rule(choice=st.integers(0, 1 << 30), stream=st.none() | st.integers(0, 2))
    def free(self, choice: int, stream: int | None) -> None:
        block, twin, mark = self.live.pop(choice % len(self.live))
        assert ctypes.string_at(block.ptr, block.num_bytes) == bytes([mark]) * block.num_bytes
        self.pool.free(block, stream=stream)
        self.twin.free(twin, stream=stream)
        with pytest.raises(ValueError, match="no live block"):
            self.pool.free(block)

    @rule()
    def trim(self) -> None:
        before = self.pool.statistics().reserved
        released = self.pool.trim()
        assert released == self.twin.trim()
        assert self.pool.statistics().reserved == before - released
        if not self.live:
            assert released == before
        for _, _, blocks in self.pool.native.blocks():  # all that is free has become one stream's
            for one, other in pairwise(blocks):
                assert (one[STATE], other[STATE]) != ("inactive", "inactive"), (one, other)

    def bytes(self) -> int:
        return sum(rounded(block.num_bytes) for block, _, _ in self.live)

    @invariant()
    def numbers_are_the_truth(self) -> None:
        s = self.pool.statistics()
        assert (s.live, s.live_peak) == (self.bytes(), self.peak)
        assert s.requested == sum(block.num_bytes for block, _, _ in self.live)
        assert (s.allocations, s.allocations - s.frees) == (self.allocations, len(self.live))
        assert s.live + s.pending <= s.reserved <= min(s.reserved_peak, self.LIMIT)

    @invariant()
    def blocks_cover_the_segments(self) -> None:
        segments = self.pool.native.blocks()
        live = {}
        for first, num_bytes, blocks in segments:
            for block in blocks:
                assert block[ADDRESS] == first
                first += block[SIZE]
                num_bytes -= block[SIZE]
                if block[STATE] == "active_allocated":
                    live[block[ADDRESS]] = block[SIZE]
            assert num_bytes == 0
            for one, other in pairwise(blocks):  # no thread caches blocks above a MiB
                same = one[STATE] == other[STATE] == "inactive" and one[STREAM] == other[STREAM]
                assert not same or min(one[SIZE], other[SIZE]) <= 1 << 20, (one, other)
        assert sum(num_bytes for _, num_bytes, _ in segments) == self.pool.statistics().reserved
        assert live == {block.ptr: rounded(block.num_bytes) for block, _, _ in self.live}


class SharedPoolMachine(PoolMachine):
    UPSTREAM = "shared"


TestPool = PoolMachine.TestCase
TestSharedPool = SharedPoolMachine.TestCase
TestPool.settings = TestSharedPool.settings = settings(max_examples=30, stateful_step_count=40)


def test_mistakes_raise_with_the_numbers() -> None:
    pool, other = MemoryPool(limit=4 << 20), MemoryPool()
    block = pool.allocate(1 << 20)
    with pytest.raises(ValueError, match=f"{block.ptr:#x} is no live block of this pool"):
        other.free(block)
    with pytest.raises(OutOfMemoryError, match="4194304 bytes asked for; 1048576 bytes are live"):
        pool.allocate(4 << 20)
    with pytest.raises(OutOfMemoryError, match="limit is 4194304"):
        pool.allocate(1 << 62)
    with pytest.raises(TypeError, match="NoneType is no Block"):
        pool.free(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no tuple: give them one by one"):
        pool.tensor((2, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="NoneType is no MemoryPool"):
        use_in_numpy(None)  # type: ignore[arg-type]
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
