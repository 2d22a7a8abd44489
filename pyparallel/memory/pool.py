"""MemoryPool: blocks of memory by best fit, given back in stream order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pyparallel._native import core
from pyparallel.memory import dlpack
from pyparallel.memory.block import Block
from pyparallel.memory.planning import PlannedSteps
from pyparallel.memory.recording import Recording
from pyparallel.memory.statistics import Statistics, StreamStatistics


class MemoryPool:
    """A caching allocator for any thread; equal calls on several ranks give equal offsets.

    Attributes:
        upstream: where its memory comes from.
        limit: the most bytes it takes from there; None: no limit.
        device: index of the CUDA device whose memory it is; -1: memory of the host.
        native: the core's pool.
    """

    def __init__(
        self,
        upstream: str = "host",
        *,
        device: int = 0,
        limit: int | None = None,
        for_graph: bool = False,
    ) -> None:
        """Takes nothing until the first allocation.

        Args:
            upstream: where memory comes from: "host", ordinary memory; "shared", memory that other
                processes of the host can map; "pinned", memory that devices copy from and to;
                "cuda", of cudaMalloc; "cuda-vmm", pages mapped into one range of addresses, which
                grows in place and gives back single pages.
            device: index of the CUDA device; of pinned memory, the one whose streams copy.
            limit: the most bytes to take from there; default: no limit.
            for_graph: keep all memory until the pool ends, because a captured graph uses it at
                every launch. Make one such pool per graph, and keep it as long as the graph.

        Raises:
            ValueError: an unknown upstream, one that this build lacks, or a negative number.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit: {limit} bytes are negative")
        if device < 0:
            raise ValueError(f"device: {device} is negative")
        self.upstream = upstream
        self.limit = limit
        self.device = device if upstream.startswith("cuda") else -1
        self.native = core.Pool(upstream, device, limit, for_graph)
        self._planned: PlannedSteps | None = None

    @classmethod
    def of_native(cls, native: core.Pool, upstream: str, *, device: int) -> MemoryPool:
        """Wraps a pool that the core has made."""
        pool = cls.__new__(cls)
        pool.upstream, pool.limit, pool.device, pool.native = upstream, None, device, native
        pool._planned = None
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
        return Block(self.native.allocate(num_bytes, stream), num_bytes, stream, self, [None])

    def free(self, block: Block, *, stream: int | None = None) -> None:
        """Gives a block back. Never synchronises.

        Args:
            block: of this pool; nothing more is enqueued on it.
            stream: the stream that used it last; default: the one it was allocated for.

        Raises:
            ValueError: a block that was freed already, or of another pool.
        """
        if not isinstance(block, Block):
            raise TypeError(f"free: {type(block).__name__} is no Block")
        if block.pool is not self:
            raise ValueError(f"free: {block.ptr:#x} is no live block of this pool, but of another")
        try:
            block.right_to_free.pop()
        except IndexError:
            raise ValueError(
                f"free: {block.ptr:#x} is no live block of this pool: freed before"
            ) from None
        try:
            if stream is not None:
                self.native.use(block.ptr, stream)
            self.native.free(block.ptr)
        except Exception:  # it is still live; whatever interrupts us may have come after its end
            block.right_to_free.append(None)
            raise

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

    def end_stream(self, stream: int) -> None:
        """Says that a stream will be destroyed: its free blocks can still be ordered after it.

        Args:
            stream: its handle, which is valid for the last time.
        """
        self.native.end_stream(stream)

    def locate(self, block: Block) -> tuple[int, int] | None:
        """Where a block lies for other processes of this host.

        Returns:
            The file descriptor of the memory in this process, and the offset in bytes; None where
            memory cannot be shared.
        """
        return self.native.locate(block.ptr)

    def on_failure(self, function: Callable[[int], bool] | None) -> None:
        """Has a function called when memory is short, with the bytes asked for, before it fails.

        It may free blocks, and returns whether to look again: it is called again while that is not
        enough, until 16 calls in a row have freed nothing. It is called without a lock, on the
        thread that allocates; None ends it.
        """
        self.native.on_failure(function)

    def plan_steps(self, *, most_divergences: int = 3) -> PlannedSteps:
        """From now on steps that repeat are placed beforehand; step() marks them.

        Args:
            most_divergences: steps in a row that were not as planned, until a plan is dropped.

        Raises:
            ValueError: called before, or no positive number.
        """
        if most_divergences < 1:
            raise ValueError(f"plan_steps: {most_divergences} divergences are not positive")
        self._planned = PlannedSteps(self.native.plan_steps(most_divergences))
        return self._planned

    def step(self) -> AbstractContextManager[None]:
        """Marks a step of the program for plan_steps(); without that it does nothing."""
        return self._planned.step() if self._planned else nullcontext()

    def trim(self) -> int:
        """Gives segments without live blocks, and free pages, back to the upstream.

        Waits for the work of the pool's streams. Does nothing while one of them is captured
        into a graph, or in a pool for a graph.

        Returns:
            The bytes given back.
        """
        return self.native.trim()

    def __repr__(self) -> str:
        where = "" if self.device < 0 else f" of device {self.device}"
        return f"<MemoryPool of {self.upstream} memory{where}>"

    def statistics(self) -> Statistics:
        """What the pool has done and holds."""
        return Statistics.of_native(self.native.statistics())

    def stream_statistics(self) -> list[StreamStatistics]:
        """The same by stream."""
        return [StreamStatistics(**numbers) for numbers in self.native.stream_statistics()]

    def record(
        self, *, history: bool = True, max_events: int = 1 << 16, frames: int = 8
    ) -> Recording:
        """Watches the pool from now on, until the recording is closed or another begins.

        Live blocks then know their call site, and `snapshot` has the latest events. Costs nothing
        before, and afterwards as little. A pool keeps the memory of its recordings until it ends.

        Args:
            history: keep events; otherwise only call sites are taken.
            max_events: the least number of events kept, in 64 bytes each; older ones are
                overwritten, and counted.
            frames: of a call site, from the innermost outwards; at most 60. 0: no call sites.
                They are taken only from threads that run Python at that moment.

        Returns:
            What ends it: a context manager, with `close()`.

        Raises:
            ValueError: a number of events or frames that cannot be kept.
        """
        return Recording(self.native, max_events=max_events if history else 0, frames=frames)
