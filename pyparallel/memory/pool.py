"""MemoryPool: blocks of memory by best fit, given back in stream order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyparallel._native import core
from pyparallel.memory import dlpack


@dataclass(frozen=True)
class Block:
    """Memory of a pool, until it is freed. torch.from_dlpack(block) views its bytes.

    Attributes:
        ptr: first address, a multiple of 512.
        num_bytes: bytes asked for.
        pool: that it is from.
    """

    ptr: int
    num_bytes: int
    pool: MemoryPool | None = field(default=None, repr=False, compare=False)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The bytes as a DLPack capsule; the block cannot be freed before its consumer drops it.

        Nothing synchronises: work of the consumer's stream comes after the work that is in the
        block's stream now, and free() waits for it.

        Args:
            stream: the consumer's, as the array API standard numbers CUDA's; -1: it cares itself.
            max_version: of DLPack that the consumer knows.
            dl_device: where it wants the data; only where they are.
            copy: True is refused.

        Raises:
            ValueError: the block was freed.
            BufferError: another device, or a copy.
        """
        return dlpack.export(
            self, stream=stream, max_version=max_version, dl_device=dl_device, copy=copy
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        """The device's type and index, as DLPack numbers them."""
        return dlpack.device_of(self)


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
    """A caching allocator for any thread; equal calls on several ranks give equal offsets.

    Attributes:
        upstream: where its memory comes from.
        limit: the most bytes it takes from there; None: no limit.
        device: index of the CUDA device whose memory it is; -1: memory of the host.
        native: the core's pool.
    """

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
        self.device = -1
        self.native = core.Pool(upstream, limit)

    @classmethod
    def of_native(cls, native: core.Pool, upstream: str, *, device: int) -> MemoryPool:
        """Wraps a pool that the core has made."""
        pool = cls.__new__(cls)
        pool.upstream, pool.limit, pool.device, pool.native = upstream, None, device, native
        return pool

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
        return Block(self.native.allocate(num_bytes, stream), num_bytes, self)

    def free(self, block: Block, *, stream: int | None = None) -> None:
        """Gives a block back. Never synchronises.

        Args:
            block: of this pool; nothing more is enqueued on it.
            stream: the stream that used it last; default: the one it was allocated for.

        Raises:
            ValueError: a block that was freed already, or of another pool.
        """
        if stream is not None:
            self.native.use(block.ptr, stream)
        self.native.free(block.ptr)

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32, stream: int = 0) -> Tensor:
        """A contiguous tensor of the pool's memory, whose block is freed with its last view.

        Values are undefined. Work on it belongs in the order of `stream`; whoever uses it on
        another one calls :meth:`use`, because torch's record_stream does not reach a pool that
        torch does not know.

        Args:
            shape: sizes, none negative.
            dtype: any.
            stream: handle of the stream in whose order the block is used, and freed.

        Raises:
            OutOfMemoryError: as allocate().
            ValueError: a negative size.
        """
        return dlpack.tensor(self, shape, dtype, stream)

    def use(self, memory: Block | Tensor, *, stream: int) -> None:
        """Work of another stream uses a block, or a tensor that begins with it: free() waits.

        Raises:
            ValueError: no live block of this pool begins there.
        """
        self.native.use(memory.ptr if isinstance(memory, Block) else memory.data_ptr(), stream)

    def trim(self) -> int:
        """Gives segments without live blocks back to the upstream.

        Waits for work on freed blocks.

        Returns:
            The bytes given back.
        """
        return self.native.trim()

    def __repr__(self) -> str:
        where = "" if self.device < 0 else f" of device {self.device}"
        return f"<MemoryPool of {self.upstream} memory{where}>"

    def statistics(self) -> Statistics:
        """What the pool has done and holds."""
        return Statistics(**self.native.statistics())
