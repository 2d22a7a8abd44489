"""Copies to a CUDA device on one stream of their own, from pinned memory."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from pyparallel._native import core
from pyparallel.data.staging import HostMemory
from pyparallel.memory import MemoryPool, default_pool


class CudaCopies:
    """A CopyEngine over torch's streams and events."""

    def __init__(self, device: torch.device) -> None:
        """Makes the copy stream.

        Args:
            device: a CUDA device; without an index, the current one.
        """
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        self._pool = default_pool("pinned") if core.features()["cuda"] else None

    def allocate_host(self, num_bytes: int) -> HostMemory:
        """Pinned memory of our pool; of torch's in a build without CUDA."""
        if self._pool is None:
            return HostMemory(torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True), _nothing)
        return memory_of(self._pool, num_bytes)

    def copy(self, source: Tensor) -> Tensor:
        """Enqueues it on the copy stream; a source that is not pinned is waited for."""
        with torch.cuda.stream(self._stream):
            return source.to(self.device, non_blocking=True)

    def record(self) -> torch.cuda.Event:
        """An event on the copy stream, with its time."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def follow(self) -> None:
        """The copy stream waits for the current one."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))

    def wait(self, event: torch.cuda.Event) -> None:
        """The current stream waits."""
        torch.cuda.current_stream(self.device).wait_event(event)

    def lend(self, tensor: Tensor) -> None:
        """Tells torch's allocator, whose memory it is."""
        tensor.record_stream(torch.cuda.current_stream(self.device))


def memory_of(pool: MemoryPool, num_bytes: int) -> HostMemory:
    """A block of a pool over memory that the host can write, as a tensor."""
    block = pool.allocate(num_bytes)
    array = (ctypes.c_uint8 * num_bytes).from_address(block.ptr)
    return HostMemory(torch.frombuffer(array, dtype=torch.uint8), lambda: pool.free(block))


def _nothing() -> None:
    """Releases what goes with its last reference."""
