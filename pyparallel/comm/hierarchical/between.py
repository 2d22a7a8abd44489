"""Between: moves bytes between ranks of different hosts, over Gloo, and says who failed to come.

Operations between hosts are made of messages, not of Gloo's collectives: so an error names the rank
that was waited for, the order of every sum is ours, and one group serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from pyparallel.comm.hierarchical.hosts import Hosts
from pyparallel.comm.hierarchical.mesh import connect_mesh
from pyparallel.errors import CollectiveMismatchError, CollectiveTimeoutError, PeerLostError

_ProcessGroupGloo: Any = dist.ProcessGroupGloo  # torch's stubs know it in part
_COLLECTIVES_TAG = (1 << 31) - 1
_UNUSED_TAG = (1 << 31) - 2
_CALL_BYTES = 192
_FOR_EVER = timedelta(days=10_000)
# A rank that is missed on its own host is named there first.
_LATER_SECONDS = 2.0


class Between:
    """The connections of this rank to the ranks of other hosts."""

    def __init__(self, hosts: Hosts, rank: int, *, timeout_seconds: float) -> None:
        """Not connected yet; `timeout_seconds` is the deadline of every wait."""
        self._hosts = hosts
        self._rank = rank
        self.timeout_seconds = timeout_seconds
        self._group: Any = None
        self._closed = False

    def connect(self, store: Store, address: str) -> None:
        """Connects all ranks to each other."""
        options = _ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=self.timeout_seconds + _LATER_SECONDS)
        options._devices = [_ProcessGroupGloo.create_device(hostname=address)]
        options._threads = 1
        world_size = len(self._hosts.host_of)
        try:
            self._group = connect_mesh(
                lambda part: _ProcessGroupGloo(part, self._rank, world_size, options),
                store,
                rank=self._rank,
                world_size=world_size,
                timeout_seconds=self.timeout_seconds + _LATER_SECONDS,
                stopped=lambda: self._closed,
            )
        except RuntimeError as error:
            raise CollectiveTimeoutError(
                f"rank {self._rank} waited {self.timeout_seconds:g} s for the ranks of other hosts "
                f"to connect to it at {address} ({str(error).splitlines()[0]})"
            ) from None

    def send(self, what: str, tensor: Tensor, rank: int, tag: int = _COLLECTIVES_TAG) -> dist.Work:
        """Starts to send the bytes of a contiguous tensor, at least one."""
        return self._start(what, rank, lambda group: group.send([_bytes(tensor)], rank, tag))

    def recv(self, what: str, tensor: Tensor, rank: int, tag: int = _COLLECTIVES_TAG) -> dist.Work:
        """Starts to receive as many bytes as the contiguous tensor has, at least one."""
        return self._start(what, rank, lambda group: group.recv([_bytes(tensor)], rank, tag))

    def recv_any(self, tensor: Tensor, tag: int) -> None:
        """Receives from whichever rank sends first, however long that takes."""
        if self._closed:
            raise RuntimeError("the communicator is closed")
        self._group.recv_anysource([_bytes(tensor)], tag).wait(_FOR_EVER)

    def wait(self, work: dist.Work, rank: int, what: str, *, for_ever: bool = False) -> None:
        """Waits for what was started with a rank, to its deadline unless `for_ever`.

        Raises:
            CollectiveTimeoutError: the rank did not come in time.
            PeerLostError: the connection is gone.
        """
        try:
            if for_ever:
                work.wait(_FOR_EVER)
            else:
                work.wait()
        except RuntimeError as error:
            raise self._error(error, rank, what) from None

    def exchange(
        self, what: str, sent: Mapping[int, Tensor], received: Mapping[int, Tensor]
    ) -> None:
        """Sends tensors to ranks, receives others, and returns when all have gone and come."""
        works = [(self.recv(what, t, rank), rank) for rank, t in received.items() if t.numel()]
        works += [(self.send(what, t, rank), rank) for rank, t in sent.items() if t.numel()]
        for work, rank in works:
            self.wait(work, rank, what)

    def announce(self, what: str, calls: Mapping[int, tuple[str, str]]) -> Announcement:
        """Tells ranks what this one calls; the announcement checks what they do.

        Args:
            what: the operation.
            calls: by rank: what to tell it, and what it should say.
        """
        said = {rank: _call_bytes(call) for rank, (call, _) in calls.items()}
        heard = {rank: torch.empty(_CALL_BYTES, dtype=torch.uint8) for rank in calls}
        works = [(self.recv(what, tensor, rank), rank) for rank, tensor in heard.items()]
        works += [(self.send(what, tensor, rank), rank) for rank, tensor in said.items()]
        return Announcement(self, self._rank, what, calls, (said, heard), works)

    def close(self) -> None:
        """Closes the connections: nothing will come any more, and all waits end with an error."""
        if self._closed:
            return
        self._closed = True
        if self._group is None:
            return
        # Gloo has no call for it, but closes connections on which a wait has timed out.
        with suppress(RuntimeError):
            nothing = self._group.recv_anysource([torch.empty(1, dtype=torch.uint8)], _UNUSED_TAG)
            nothing.wait(timedelta(milliseconds=1))

    def _start(self, what: str, rank: int, start: Callable[[Any], dist.Work]) -> dist.Work:
        try:
            if self._closed:
                raise RuntimeError("the communicator is closed")
            return start(self._group)
        except RuntimeError as error:
            raise self._error(error, rank, what) from None

    def _error(self, error: RuntimeError, rank: int, what: str) -> Exception:
        if "imed out" in str(error):
            return CollectiveTimeoutError(
                f"rank {self._rank} waited {self.timeout_seconds:g} s for "
                f"{self._hosts.describe(rank)} in {what}()"
            )
        return PeerLostError(
            f"{self._hosts.describe(rank)} was lost; rank {self._rank} was in {what}()", rank
        )


class Announcement:
    """What this rank calls and what others should call, on its way."""

    def __init__(
        self,
        between: Between,
        rank: int,
        what: str,
        calls: Mapping[int, tuple[str, str]],
        tensors: tuple[Mapping[int, Tensor], Mapping[int, Tensor]],
        works: list[tuple[dist.Work, int]],
    ) -> None:
        self._between = between
        self._rank = rank
        self._what = what
        self._calls = calls
        self._tensors = tensors
        self._works = works

    def check(self) -> None:
        """Waits until all have said what they call.

        Raises:
            CollectiveMismatchError: with both calls.
        """
        for work, rank in self._works:
            self._between.wait(work, rank, self._what)
        for rank, (own, expected) in self._calls.items():
            call = bytes(self._tensors[1][rank].tolist()).rstrip(b"\0").decode(errors="replace")
            if call != expected[:_CALL_BYTES]:
                raise CollectiveMismatchError(
                    f"ranks disagree: rank {self._rank} called {own}, rank {rank} called {call}"
                )


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def _call_bytes(call: str) -> Tensor:
    return torch.frombuffer(
        bytearray(call.encode()[:_CALL_BYTES].ljust(_CALL_BYTES, b"\0")), dtype=torch.uint8
    )
