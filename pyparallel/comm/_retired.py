"""Tensors of operations that failed: peers may still touch them, so their memory waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Protocol

from torch import Tensor

from pyparallel._native import core


class Operation(Protocol):
    """A collective or a message."""

    @property
    def native(self) -> core.Work:
        """What the core knows of it."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it reads and writes, as long as it holds them."""


class Retired:
    """Tensors of communicators that have ended, until no other rank of theirs can touch them.

    That is when each has closed its communicator or died. Were the memory given back before, it
    could be another tensor's by the time that a late peer writes its part of the result.
    """

    def __init__(self) -> None:
        # Entries are taken out whole, by any thread: no lock, which a finalizer could find taken.
        self._held: deque[tuple[core.Peers, list[Tensor]]] = deque()

    def __len__(self) -> int:
        """How many tensors are held."""
        return sum(len(tensors) for _, tensors in list(self._held))

    def retire(self, peers: core.Peers, *operations: Collection[Operation]) -> None:
        """Takes what operations hold that have not ended well."""
        tensors = [
            tensor
            for some in operations
            for operation in list(some)
            if not operation.native.succeeded
            for tensor in operation.tensors
            if core.is_shared(tensor.data_ptr())
        ]
        if tensors and not peers.others_gone():
            self._held.append((peers, tensors))

    def sweep(self) -> None:
        """Lets go of what no peer can touch any more."""
        for _ in range(len(self._held)):
            try:
                entry = self._held.popleft()
            except IndexError:  # another thread sweeps, too
                return
            if not entry[0].others_gone():
                self._held.append(entry)


RETIRED = Retired()
