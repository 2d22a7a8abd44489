"""Point-to-point messages as torch calls them: send, recv and recv from any rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pyparallel.comm.backend.contiguous import contiguous, writable
from pyparallel.comm.backend.dispatch import Dispatcher, only, routed
from pyparallel.comm.backend.works import CollectiveWork


class PointToPoint(Dispatcher):
    """Operations between two ranks, apart from the order of the collectives."""

    @routed
    def send(self, tensors: Tensor | Sequence[Tensor], destination: int, tag: int = 0) -> Any:
        """Starts to send a tensor."""
        tensor = only(tensors, what="send")
        part = self.communicator.send(contiguous(tensor, what="send"), destination, tag=tag)
        return self._in_flight(CollectiveWork("send", [part], [tensor]))

    @routed
    def recv(self, tensors: Tensor | Sequence[Tensor], source: int | None, tag: int = 0) -> Any:
        """Starts to receive from a rank."""
        tensor = only(tensors, what="recv")
        memory, finish = writable(tensor, what="recv")
        part = self.communicator.recv(memory, source, tag=tag)
        return self._in_flight(CollectiveWork("recv", [part], [tensor], finish))

    @routed
    def recv_anysource(self, tensors: Tensor | Sequence[Tensor], tag: int = 0) -> Any:
        """Starts to receive from whichever rank sends first; source_rank() names it then."""
        return self.recv(tensors, None, tag)
