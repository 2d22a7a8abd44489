"""Sends and receives through shared memory, beside the order of the collectives."""

from __future__ import annotations

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm._operands import check_moved, check_peer, check_tag

_ANY_RANK = -1


class ShmMessage:
    """A send or receive in flight; keeps its tensor alive until it is completed."""

    __slots__ = ("_communicator", "_received", "_tensor", "native")

    def __init__(
        self,
        communicator: core.ShmCommunicator,
        native: core.Work,
        tensor: Tensor,
        *,
        received: bool,
    ) -> None:
        self._communicator = communicator
        self._tensor: Tensor | None = tensor
        self._received = received
        self.native = native

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it reads or writes, until it has been waited for."""
        return () if self._tensor is None else (self._tensor,)

    @property
    def source(self) -> int | None:
        """The rank that a completed receive came from; None before, and for sends."""
        source = self.native.source
        return None if source == _ANY_RANK else source

    @property
    def started_ns(self) -> int:
        """See Work.started_ns."""
        return self.native.started_ns

    @property
    def ended_ns(self) -> int:
        """See Work.ended_ns."""
        return self.native.ended_ns

    def wait(self) -> None:
        """Blocks until the tensor may be used again: sent or buffered, or received.

        Raises:
            PeerLostError: a rank died, or the other side of the message left.
            CollectiveMismatchError: the other side means another size or dtype.
            CollectiveTimeoutError: the other side did not come in time.
        """
        self._communicator.wait(self.native)
        if self._received and self._tensor is not None:
            torch.autograd.graph.increment_version(self._tensor)
        self._tensor = None

    def is_completed(self) -> bool:
        """Whether wait() would return at once."""
        return self._communicator.test(self.native)

    def withdraw(self) -> bool:
        """Takes back a receive for which no message has come; False if one has."""
        return self._communicator.withdraw(self.native)

    def exception(self) -> BaseException | None:
        """The error of a completed message, or None."""
        if not self.native.failed:
            return None
        try:
            self._communicator.wait(self.native)
        except Exception as error:
            return error
        return None


class Messages:
    """The sends and receives of one rank.

    Up to 4 KiB are buffered: such a send is completed at once while the receiver's inbox has room.
    Larger tensors from ShmCommunicator.empty(), on either side, are copied once; others pass in
    pieces through a small buffer, both sides copying at the same time.
    """

    def __init__(self, native: core.ShmCommunicator, *, rank: int, world_size: int) -> None:
        """Of a joined native communicator."""
        self._native = native
        self._rank = rank
        self._world_size = world_size
        self.in_flight: list[ShmMessage] = []
        self._enough = 16  # to look for completed ones

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> ShmMessage:
        """See Communicator.send."""
        dtype = self._check("send", tensor, tag)
        check_peer("send", destination, rank=self._rank, world_size=self._world_size)
        native = self._native.send(tensor.data_ptr(), tensor.numel(), dtype, destination, tag)
        return self._track(native, tensor, received=False)

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> ShmMessage:
        """See Communicator.recv."""
        dtype = self._check("recv", tensor, tag)
        if source is not None:
            check_peer("recv", source, rank=self._rank, world_size=self._world_size)
        peer = _ANY_RANK if source is None else source
        native = self._native.recv(tensor.data_ptr(), tensor.numel(), dtype, peer, tag)
        return self._track(native, tensor, received=True)

    def _check(self, what: str, tensor: Tensor, tag: int) -> int:
        check_moved(what, "cpu", tensor)
        check_tag(what, tag)
        return _tensors.moved_dtype_code(tensor.dtype, what=f"{what}: the tensor")

    def _track(self, native: core.Work, tensor: Tensor, *, received: bool) -> ShmMessage:
        message = ShmMessage(self._native, native, tensor, received=received)
        if not native.completed:
            self.in_flight.append(message)
            if len(self.in_flight) >= self._enough:
                self.in_flight[:] = [one for one in self.in_flight if not one.native.succeeded]
                self._enough = max(16, 2 * len(self.in_flight))
        return message
