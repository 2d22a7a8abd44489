"""Receives: which of the messages that are announced goes to which recv.

recv(source 2) ---- waits ----.
recv(None) -------- waits ----+--- the first that accepts it <--- header (source, tag, number)
                              |
messages of this host may also complete the second, through shared memory: it is taken back
there before it takes a header, so that no message is taken twice
"""

from __future__ import annotations

import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pyparallel.comm.hierarchical.lane import LaneWork, Progress
from pyparallel.comm.hierarchical.own_work import OwnWork

_HEADER = struct.Struct("<qqqq32s")
HEADER_BYTES = _HEADER.size
_POLL_SECONDS = 0.0005  # for what may also come through shared memory


@dataclass(frozen=True)
class Header:
    """What is on its way.

    Attributes:
        source: the sending rank.
        tag: of the message.
        number: of earlier messages from this source with this tag.
        numel: elements.
        dtype: by its name in torch.
    """

    source: int
    tag: int
    number: int
    numel: int
    dtype: str

    def pack(self) -> Tensor:
        """As it travels."""
        data = _HEADER.pack(self.source, self.tag, self.number, self.numel, self.dtype.encode())
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    @staticmethod
    def unpack(data: Tensor) -> Header:
        """From pack()."""
        source, tag, number, numel, dtype = _HEADER.unpack(bytes(data.tolist()))
        return Header(source, tag, number, numel, dtype.rstrip(b"\0").decode())


class Receive(LaneWork):
    """A recv that other hosts may answer.

    Attributes:
        source: the rank whose message it took; None before.
        header: of that message, if it is of another host.
        contents: on their way.
    """

    def __init__(
        self,
        tensor: Tensor,
        wanted: int | None,
        tag: int,
        *,
        own: OwnWork | None,
        timeout_seconds: float,
        overdue: Callable[[Receive], object],
        progress: Progress,
    ) -> None:
        """Of a tensor, from the wanted rank or from any.

        Args:
            tensor: to be written.
            wanted: source, or None.
            tag: of the message.
            own: the same recv among the ranks of this host; it belongs to `wanted` None.
            timeout_seconds: deadline of wait().
            overdue: ends the communicator after it.
            progress: where it notes how far it is.
        """
        super().__init__("recv", (tensor,), progress)
        self.tensor = tensor
        self.wanted = wanted
        self.tag = tag
        self.source: int | None = None
        self.header: Header | None = None
        self.contents: dist.Work | None = None
        self._own = own
        self._timeout_seconds = timeout_seconds
        self._overdue = overdue

    def accepts(self, header: Header) -> bool:
        """Whether the message is meant for this recv."""
        return header.tag == self.tag and self.wanted in (None, header.source)

    def withdraw(self) -> bool:
        """Makes sure that no message of this host is taken any more; False if one was."""
        own = self._own
        if own is None or own.withdraw() or own.has_lost_peers():
            self._own = None
            return True
        return False

    def wait(self) -> None:
        """See Work.wait."""
        deadline = time.monotonic() + self._timeout_seconds
        while not self.is_completed():
            left = deadline - time.monotonic()
            if left <= 0 and self.header is None:
                self._overdue(self)
            self.pause(min(left, _POLL_SECONDS) if self._own is not None else left)
        super().wait()

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        own = self._own
        if own is not None and not super().is_completed() and own.is_completed():
            if own.has_lost_peers():
                self._own = None  # other hosts may still answer
            elif self._own is own:  # and was not withdrawn in between
                error = own.exception()
                self.source = own.source
                self.end(error)
        return super().is_completed()


class Matching:
    """The recvs of one rank that wait, and the headers that nobody has waited for yet."""

    def __init__(self, start: Callable[[Receive, Header], None]) -> None:
        """`start` lets the contents come; called in the order of each source's messages."""
        self._start = start
        self._taken: Counter[tuple[int, int]] = Counter()
        self._requested: Counter[tuple[int | None, int]] = Counter()
        self._headers: list[Header] = []
        self._waiting: list[Receive] = []
        self._lock = threading.Lock()

    def add_receive(self, receive: Receive) -> list[Receive]:
        """A recv was called; returns the recvs that have a header now."""
        with self._lock:
            self._waiting.append(receive)
            return self._match()

    def add_header(self, header: Header, wanted: int | None) -> list[Receive]:
        """A message was announced to one of requests(); returns the recvs that have a header."""
        with self._lock:
            self._requested[wanted, header.tag] -= 1
            self._headers.append(header)
            return self._match()

    def requests(self) -> list[tuple[int | None, int]]:
        """Source (or None) and tag of each header that is wanted and not asked for so far.

        Who takes a header may not be who asked for it: so there are at least as many requests of
        each kind as recvs wait for.
        """
        with self._lock:
            missing = list(self._missing().elements())
            self._requested.update(missing)
            return missing

    def give_up(self, wanted: int | None, tag: int) -> bool:
        """A request has failed; returns whether any recv needs it."""
        with self._lock:
            self._requested[wanted, tag] -= 1
            return self._missing()[wanted, tag] > 0

    def _missing(self) -> Counter[tuple[int | None, int]]:
        self._waiting = [receive for receive in self._waiting if not receive.is_completed()]
        wanted = Counter((receive.wanted, receive.tag) for receive in self._waiting)
        # Headers that overtook an earlier one, which is here soon.
        early: Counter[tuple[int | None, int]] = Counter()
        for header in self._headers:
            early.update([(header.source, header.tag), (None, header.tag)])
        return wanted - self._requested - early

    def _match(self) -> list[Receive]:
        matched = []
        while (pair := self._pair()) is not None:
            receive, header = pair
            self._waiting.remove(receive)
            if not receive.withdraw():
                continue  # it has a message of this host
            self._headers.remove(header)
            self._taken[header.source, header.tag] += 1
            self._start(receive, header)
            matched.append(receive)
        return matched

    def _pair(self) -> tuple[Receive, Header] | None:
        for header in self._headers:
            if header.number == self._taken[header.source, header.tag]:
                for receive in self._waiting:
                    if receive.accepts(header):
                        return receive, header
        return None
