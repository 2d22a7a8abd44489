"""The way to a device: through reused pinned slabs, each guarded by the event of its last copy.

    send, a thread of ours     wait for a slab's event | fill the slab | enqueue its copies | event
    receive, the loop's        its stream waits for the event | its stream uses the tensors

The host waits only for a slab that is still being copied; the loop's thread never waits.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from pyparallel._tensors import is_dense
from pyparallel.data import tree
from pyparallel.data.meter import Stage

NUM_SLABS = 2  # one is filled while the other is copied
ALIGNMENT = 512
SMALLEST_SLAB = 1 << 16


class Transport(Protocol):
    """Brings batches to where they are used."""

    def send(self, batch: Any) -> Any:
        """Begins to move a batch; called in order, by one thread at a time.

        Returns:
            What `receive` takes. If it is dropped instead, nothing may be left in use.
        """

    def receive(self, sent: Any) -> Any:
        """The batch, for the caller's current stream. Does not wait on the host."""

    def copied(self) -> Stage:
        """What the device's copies took so far."""

    def close(self) -> None:
        """Waits for copies under way and gives the memory back; harmless twice."""


class Event(Protocol):
    """A place in the order of the copies."""

    def synchronize(self) -> None:
        """Waits on the host until the copies before it are done."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from here to a later event; both are done."""


@dataclass(frozen=True)
class HostMemory:
    """Memory that a device copies from.

    Attributes:
        tensor: uint8 (bytes,), aligned to 512.
        release: gives it back; no copy uses it any more.
    """

    tensor: Tensor
    release: Callable[[], None]


class CopyEngine(Protocol):
    """One copy stream to a device. Everything it enqueues happens in order."""

    device: torch.device

    def allocate_host(self, num_bytes: int) -> HostMemory:
        """Memory for a slab."""

    def copy(self, source: Tensor) -> Tensor:
        """Enqueues the copy of a tensor into a new one on the device.

        The source stays untouched until an event recorded after it is done.
        """

    def record(self) -> Event:
        """An event after all that was enqueued."""

    def follow(self) -> None:
        """The copies to come wait for what the calling thread's current stream was given."""

    def wait(self, event: Any) -> None:
        """Work that the calling thread's current stream is given from now on waits for an event."""

    def lend(self, tensor: Tensor) -> None:
        """Keeps a tensor's memory from reuse until the current stream is done with it.

        That is with all it has been given when the last reference to the memory goes.
        """


@dataclass
class Slab:
    """One piece of host memory, and what the copies of one batch read.

    Attributes:
        memory: what small tensors are packed into.
        sources: tensors copied from where they are.
        num_bytes: copied.
        begin: event before the copies.
        end: event after them; None when there are none.
    """

    memory: HostMemory | None = None
    sources: list[Tensor] = field(default_factory=list)
    num_bytes: int = 0
    begin: Event | None = None
    end: Event | None = None

    def free(self) -> Stage:
        """Waits until nothing reads it any more; returns what the copies took."""
        if self.begin is None or self.end is None:
            return Stage()
        self.end.synchronize()
        copied = Stage(1, self.begin.elapsed_time(self.end) * 1e-3, self.num_bytes)
        self.begin = self.end = None
        self.sources.clear()
        self.num_bytes = 0
        return copied

    def release(self) -> None:
        """Gives the memory back."""
        if self.memory is not None:
            self.memory.release()
            self.memory = None


@dataclass(frozen=True, eq=False)
class Sent:
    """A batch on the device, its tensors there, and the event after which they are whole."""

    batch: Any
    tensors: list[Tensor]
    event: Event


class Staged:
    """A Transport over a CopyEngine.

    Dense tensors on the CPU are packed into a slab and copied from there; pinned ones are copied
    from where they are; sparse tensors and subclasses by their own ``to``. Each tensor keeps the
    order of its dimensions in memory, if it has no gaps. What is no tensor comes through as it is.
    """

    def __init__(self, engine: CopyEngine) -> None:
        self._engine = engine
        self._slabs = deque(Slab() for _ in range(NUM_SLABS))
        self._copied = Stage()
        self._lock = threading.Lock()

    def send(self, batch: Any) -> Sent:
        """Fills a slab and enqueues its copies; waits while all slabs are being copied."""
        with self._lock:
            return self._send(batch)

    def receive(self, sent: Sent) -> Any:
        """Lets the current stream wait for the copies."""
        self._engine.wait(sent.event)
        for tensor in sent.tensors:
            for part in tree.parts(tensor):
                self._engine.lend(part)
        return sent.batch

    def copied(self) -> Stage:
        """The copies whose slabs have been taken again."""
        return self._copied

    def close(self) -> None:
        """Waits for the copies and gives the slabs back."""
        with self._lock:
            for slab in self._slabs:
                self._copied = self._copied.plus(slab.free())
                slab.release()

    def _send(self, batch: Any) -> Sent:
        tensors = {id(one): one for one in tree.leaves(batch) if isinstance(one, Tensor)}
        if any(one.device.type != "cpu" for one in tensors.values()):
            self._engine.follow()
        slab = self._slabs[0]
        self._copied = self._copied.plus(slab.free())
        self._slabs.rotate(-1)
        places = _pack([one for one in tensors.values() if _is_staged(one)], slab, self._engine)
        slab.begin = self._engine.record()
        moved: list[Tensor] = []

        def move(tensor: Tensor) -> Tensor:
            moved.append(self._move(tensor, places, slab))
            return moved[-1]

        try:
            on_device = tree.map_tensors(move, batch)
        finally:
            slab.end = self._engine.record()  # whatever was enqueued reads the slab
        return Sent(on_device, moved, slab.end)

    def _move(self, tensor: Tensor, places: dict[int, Tensor], slab: Slab) -> Tensor:
        if tensor.device == self._engine.device:
            return tensor
        if id(tensor) not in places:
            slab.sources.append(tensor)
        slab.num_bytes += tree.num_bytes(tensor)
        target = self._engine.copy(places.get(id(tensor), tensor).detach())
        return target.requires_grad_(tensor.requires_grad)


def _pack(tensors: list[Tensor], slab: Slab, engine: CopyEngine) -> dict[int, Tensor]:
    """Fills a free slab, making it larger if need be; returns the places by tensors' ids."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    offsets = [0, *accumulate(math.ceil(size / ALIGNMENT) * ALIGNMENT for size in sizes)]
    if slab.memory is None or slab.memory.tensor.numel() < offsets[-1]:
        slab.release()
        slab.memory = engine.allocate_host(max(SMALLEST_SLAB, offsets[-1]))
    places = {}
    for tensor, offset, size in zip(tensors, offsets, sizes, strict=False):
        place = _like(tensor, slab.memory.tensor[offset : offset + size])
        with torch.no_grad():
            place.copy_(tensor)
        places[id(tensor)] = place
    return places


def _is_staged(tensor: Tensor) -> bool:
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_pinned()
    )


def _like(tensor: Tensor, memory: Tensor) -> Tensor:
    """Memory as an empty tensor of the same shape, dtype and, if dense, order of dimensions."""
    flat = memory.view(tensor.dtype)
    if tensor.numel() and is_dense(tensor):
        return flat.as_strided(tensor.shape, tensor.stride(), flat.storage_offset())
    return flat.view(tensor.shape)
