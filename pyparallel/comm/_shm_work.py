"""ShmWork: a collective in shared memory, in flight."""

from __future__ import annotations

import torch
from torch import Tensor

from pyparallel._native import core


class ShmWork:
    """A collective in flight; keeps its tensors alive until it is completed.

    Attributes:
        native: also knows when it was submitted, and for how long it waited for other ranks.
    """

    __slots__ = ("_communicator", "_read", "_squares", "_written", "native")

    def __init__(
        self,
        communicator: core.ShmCommunicator,
        native: core.Work,
        written: Tensor | None = None,
        read: Tensor | None = None,
        squares: Tensor | None = None,
    ) -> None:
        self._communicator = communicator
        self._written = written
        self._read = read
        self._squares = squares
        self.native = native

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it reads and writes, until it has been waited for."""
        read = None if self._read is self._written else self._read
        held = self._written, read, self._squares
        return tuple(tensor for tensor in held if tensor is not None)

    @property
    def started_ns(self) -> int:
        """See Work.started_ns."""
        return self.native.started_ns

    @property
    def ended_ns(self) -> int:
        """See Work.ended_ns."""
        return self.native.ended_ns

    def wait(self) -> None:
        """Blocks until the result is there, running queued work in this thread if nobody else does.

        Raises:
            PeerLostError: a rank died or left.
            CollectiveMismatchError: ranks called different operations.
            CollectiveTimeoutError: a rank did not come in time.
        """
        self._communicator.wait(self.native)
        if self._written is not None:
            torch.autograd.graph.increment_version(self._written)
        if self._squares is not None:
            torch.autograd.graph.increment_version(self._squares)
        self._written = self._read = self._squares = None

    def is_completed(self) -> bool:
        """Whether wait() would return at once; asking sees to the progress of what would not."""
        return self.native.completed or self._communicator.test(self.native)

    def exception(self) -> BaseException | None:
        """The error of a completed collective, or None."""
        if not self.native.failed:
            return None
        try:
            self._communicator.wait(self.native)
        except Exception as error:
            return error
        return None
