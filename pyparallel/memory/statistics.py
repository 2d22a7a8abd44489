"""What a pool says of itself in numbers: of all its blocks, by class of size, and by stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ClassStatistics:
    """Of blocks of one class: small ones, up to 1 MiB, or large ones. Sizes as of blocks, rounded.

    Attributes:
        live: bytes with the caller.
        live_peak: the most there was at once.
        allocated: bytes ever allocated.
        freed: bytes ever freed.
        allocations: number of allocate() calls that succeeded.
        frees: number of free() calls that succeeded.
    """

    live: int
    live_peak: int
    allocated: int
    freed: int
    allocations: int
    frees: int


@dataclass(frozen=True)
class Idle:
    """Bytes that were reserved and not live when a request made the pool grow, by what kept them.

    Attributes:
        hard: free in the request's own stream, in pieces too small for it.
        soft: freed, but work of other streams could still use them.
        stream: free in the order of other streams.
        cached: in the caches of threads.
    """

    hard: int
    soft: int
    stream: int
    cached: int


@dataclass(frozen=True)
class StreamStatistics:
    """Of blocks in the order of one stream, those in threads' caches left out.

    Attributes:
        stream: its identity: a number that no other stream has, which is not the handle.
        live: bytes with the caller.
        free: bytes ready for the stream's next request.
        largest_hole: the largest free block.
        events: number of events that have not been seen to pass.
    """

    stream: int
    live: int
    free: int
    largest_hole: int
    events: int


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
        free: ready for the next request; blocks in the threads' caches do not count.
        largest_hole: the largest free block; nor do they here.
        segments: upstream allocations held.
        allocations: number of allocate() calls that succeeded.
        frees: number of free() calls that succeeded.
        upstream_allocations: number of times the pool grew.
        upstream_releases: number of times it gave something back.
        cross_stream_reuses: number of blocks that changed their stream.
        events: number of events recorded.
        small: of blocks up to 1 MiB.
        large: of larger ones.
        idle_at_peak: why the pool grew to `reserved_peak` although not all it had was live.
    """

    live: int
    live_peak: int
    requested: int
    reserved: int
    reserved_peak: int
    pending: int
    free: int
    largest_hole: int
    segments: int
    allocations: int
    frees: int
    upstream_allocations: int
    upstream_releases: int
    cross_stream_reuses: int
    events: int
    small: ClassStatistics
    large: ClassStatistics
    idle_at_peak: Idle

    @classmethod
    def of_native(cls, native: dict[str, Any]) -> Statistics:
        """From what the core says."""
        parts = {
            "small": ClassStatistics(**native["small"]),
            "large": ClassStatistics(**native["large"]),
            "idle_at_peak": Idle(**native["idle_at_peak"]),
        }
        return cls(**{**native, **parts})
