"""MemoryPool: blocks of memory by best fit, given back in stream order."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from pyparallel._native import core
from pyparallel.memory.planning import PlannedSteps


@dataclass(frozen=True)
class Block:
    """Memory of a pool, until it is freed.

    Attributes:
        ptr: first address, a multiple of 512.
        num_bytes: bytes asked for.
    """

    ptr: int
    num_bytes: int


@dataclass(frozen=True)
class Statistics:
    """What a pool has done and holds; sizes in bytes.

    Attributes:
        live: with the caller, each block rounded up to a multiple of 512.
        live_peak: the most there was at once.
        requested: of the live bytes, those asked for.
        reserved: held from the upstream.
        reserved_peak: the most there was at once.
        pending: freed, but work of other streams may still use it.
        largest_hole: the largest free block; blocks in the threads' caches do not count.
        segments: upstream allocations held.
        allocations: number of allocate() calls that succeeded.
        frees: number of free() calls that succeeded.
        upstream_allocations: number of times the pool grew.
        upstream_releases: number of segments given back.
        cross_stream_reuses: number of blocks that changed their stream.
        events: number of events recorded.
    """

    live: int
    live_peak: int
    requested: int
    reserved: int
    reserved_peak: int
    pending: int
    largest_hole: int
    segments: int
    allocations: int
    frees: int
    upstream_allocations: int
    upstream_releases: int
    cross_stream_reuses: int
    events: int


class MemoryPool:
    """A caching allocator for any thread; equal calls on several ranks give equal offsets."""

    def __init__(self, upstream: str = "host", *, limit: int | None = None) -> None:
        """Takes nothing until the first allocation.

        Args:
            upstream: where memory comes from: "host", ordinary memory.
            limit: the most bytes to take from there; default: no limit.

        Raises:
            ValueError: an unknown upstream, or a negative limit.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit: {limit} bytes are negative")
        self.upstream = upstream
        self.limit = limit
        self._native = core.Pool(upstream, limit)
        self._planned: PlannedSteps | None = None

    def allocate(self, num_bytes: int, *, stream: int = 0) -> Block:
        """A block whose values are undefined, to be used in the order of a stream.

        Does not synchronise unless memory is short.

        Args:
            num_bytes: may be 0: such a block has an address of its own.
            stream: handle of the stream; host memory has none, any number orders it.

        Raises:
            OutOfMemoryError: with the bytes asked for, live, cached and in the largest hole.
            ValueError: a negative size.
        """
        if not 0 <= num_bytes < 1 << 63:
            raise ValueError(f"allocate: {num_bytes} is no number of bytes")
        return Block(self._native.allocate(num_bytes, stream), num_bytes)

    def free(self, block: Block, *, stream: int | None = None) -> None:
        """Gives a block back. Never synchronises.

        Args:
            block: of this pool; nothing more is enqueued on it.
            stream: the stream that used it last; default: the one it was allocated for.

        Raises:
            ValueError: a block that was freed already, or of another pool.
        """
        if stream is not None:
            self._native.use(block.ptr, stream)
        self._native.free(block.ptr)

    def plan_steps(self, *, most_divergences: int = 3) -> PlannedSteps:
        """From now on steps that repeat are placed beforehand; step() marks them.

        Args:
            most_divergences: steps in a row that were not as planned, until a plan is dropped.

        Raises:
            ValueError: called before, or no positive number.
        """
        if most_divergences < 1:
            raise ValueError(f"plan_steps: {most_divergences} divergences are not positive")
        self._planned = PlannedSteps(self._native.plan_steps(most_divergences))
        return self._planned

    def step(self) -> AbstractContextManager[None]:
        """Marks a step of the program for plan_steps(); without that it does nothing."""
        return self._planned.step() if self._planned else nullcontext()

    def trim(self) -> int:
        """Gives segments without live blocks back to the upstream.

        Waits for work on freed blocks.

        Returns:
            The bytes given back.
        """
        return self._native.trim()

    def statistics(self) -> Statistics:
        """What the pool has done and holds."""
        return Statistics(**self._native.statistics())
