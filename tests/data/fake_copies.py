"""A device whose copies happen as late as they may: when somebody waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyparallel.data import HostMemory
from pyparallel.data.tree import map_tensors

POISON = 0xA5
UNCOPIED = 101  # tests draw smaller numbers


@dataclass(frozen=True)
class FakeEvent:
    """After so many copies."""

    copies: FakeCopies
    position: int

    def synchronize(self) -> None:
        self.copies.run_until(self.position)

    def elapsed_time(self, end: FakeEvent) -> float:
        return float(end.position - self.position)


class FakeCopies:
    """A CopyEngine whose host runs ahead as far as it can.

    Host memory that is overwritten or released too early shows as wrong bytes on the device, and
    so do tensors that are used before their copy.
    """

    def __init__(self) -> None:
        self.device = torch.device("cuda", 0)  # only its name: the tensors are on the CPU
        self.allocated: list[int] = []
        self.live_bytes = 0
        self.follows = 0
        self.lent: set[int] = set()
        self.fails_at: int | None = None
        self._lock = threading.RLock()
        self._queue: list[Callable[[], object]] = []
        self._done = 0
        self._waited = 0

    def allocate_host(self, num_bytes: int) -> HostMemory:
        memory = torch.full((num_bytes + 512,), POISON, dtype=torch.uint8)
        offset = -memory.data_ptr() % 512
        tensor = memory[offset : offset + num_bytes]
        self.allocated.append(num_bytes)
        self.live_bytes += num_bytes

        def release() -> None:
            self.live_bytes -= num_bytes
            tensor.fill_(POISON)

        return HostMemory(tensor, release)

    def copy(self, source: Tensor) -> Tensor:
        with self._lock:
            if self.fails_at == len(self._queue):
                self.fails_at = None
                raise MemoryError("no room on the device")
            target = torch.empty_like(source).fill_(UNCOPIED)
            self._queue.append(lambda: target.copy_(source))
            return target

    def record(self) -> FakeEvent:
        with self._lock:
            return FakeEvent(self, len(self._queue))

    def follow(self) -> None:
        self.follows += 1

    def wait(self, event: FakeEvent) -> None:
        self._waited = max(self._waited, event.position)

    def lend(self, tensor: Tensor) -> None:
        self.lent.add(id(tensor))

    def run_until(self, position: int) -> None:
        """The device does its first copies."""
        with self._lock, torch.no_grad():
            while self._done < position:
                self._queue[self._done]()
                self._queue[self._done] = lambda: None
                self._done += 1

    def compute(self, batch: object) -> object:
        """What the stream that waited reads of a batch."""
        self.run_until(self._waited)

        def read(tensor: Tensor) -> Tensor:
            assert id(tensor) in self.lent, "the allocator does not know who uses it"
            return tensor.clone()

        return map_tensors(read, batch)
