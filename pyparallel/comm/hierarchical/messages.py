"""Messages: send and recv between hosts, and receiving from whichever rank of any host sends first.

Gloo ends the process of a receiver whose tensor is smaller than the message. So a header that names
size and dtype goes first, and the contents are received once both sides are known to agree:

    send(tensor, tag t)    header, number n of this pair and tag -> Gloo tag 2t + 1
                           contents                              -> Gloo tag 2t
    recv(tensor, tag t)    takes headers; the first waiting recv that accepts the source gets header n
                           once headers 0 to n - 1 are gone; then it receives the contents
"""

from __future__ import annotations

import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyparallel.comm.communicator import Communicator, Work
from pyparallel.comm.hierarchical.lane import Explain, LaneWork
from pyparallel.comm.hierarchical.layout import Layout, in_the_job
from pyparallel.errors import CollectiveMismatchError, PyparallelError

_HEADER = struct.Struct("<qqqq32s")  # source, tag, number, elements, dtype


@dataclass(frozen=True)
class Header:
    """What is on its way."""

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
        *numbers, dtype = _HEADER.unpack(bytes(data.tolist()))
        return Header(*numbers, dtype=dtype.rstrip(b"\0").decode())


class Receive:
    """A recv that waits for its header."""

    def __init__(self, work: LaneWork, tensor: Tensor, source: int | None, tag: int) -> None:
        self.work = work
        self.tensor = tensor
        self.source = source
        self.tag = tag
        self.header: Header | None = None
        self.contents: dist.Work | None = None  # on its way

    def accepts(self, header: Header) -> bool:
        """Whether the message is meant for this recv."""
        return header.tag == self.tag and self.source in (None, header.source)


class Messages:
    """The messages between this rank and those of other hosts."""

    def __init__(self, layout: Layout, explain: Explain) -> None:
        """`explain` turns what a message raised into the communicator's failure."""
        self._layout = layout
        self._explain = explain
        self._sent: Counter[tuple[int, int]] = Counter()
        self._taken: Counter[tuple[int, int]] = Counter()
        self._headers: list[Header] = []  # nobody waits for them yet
        self._waiting: list[Receive] = []
        self._works: set[LaneWork] = set()
        self._lock = threading.Lock()

    def send(self, tensor: Tensor, destination: int, tag: int) -> Work:
        """See Communicator.send."""
        check_tag("send", tag)
        hosts = self._layout.hosts
        if hosts.host_of[destination] == self._layout.host:
            local = hosts.local_of[destination]
            return self._own("send", lambda own: own.send(tensor, local, tag=tag))
        return self._send(tensor, destination, tag)

    def recv(self, tensor: Tensor, source: int | None, tag: int) -> Work:
        """See Communicator.recv."""
        check_tag("recv", tag)
        hosts = self._layout.hosts
        if source is not None and hosts.host_of[source] == self._layout.host:
            local = hosts.local_of[source]
            return self._own("recv", lambda own: own.recv(tensor, local, tag=tag))
        receive = Receive(LaneWork("recv", (tensor,)), tensor, source, tag)
        with self._lock:
            self._waiting.append(receive)
            self._match()
        return self._start(receive.work, lambda: self._receive(receive))

    def _own(self, what: str, start: Callable[[Communicator], Work]) -> OwnWork:
        layout = self._layout

        def explain(error: PyparallelError) -> BaseException:
            return self._explain(in_the_job(error, layout.hosts, layout.rank), what)

        try:
            work = start(layout.own)
        except PyparallelError as error:
            raise explain(error) from None
        return OwnWork(work, explain, layout.hosts.ranks[layout.host])

    def _send(self, tensor: Tensor, destination: int, tag: int) -> LaneWork:
        between = self._layout.between
        with self._lock:
            number = self._sent[destination, tag]
            self._sent[destination, tag] += 1
            header = Header(self._layout.rank, tag, number, tensor.numel(), _dtype(tensor))
            parts = [(header.pack(), 2 * tag + 1), (tensor, 2 * tag)]
            works = [between.send("send", part, destination, t) for part, t in parts if part.numel()]

        def finish() -> None:
            for work in works:
                between.wait(work, destination, "send")

        return self._start(LaneWork("send", (parts[0][0], tensor)), finish)

    def fail(self, error: BaseException) -> None:
        """Ends everything in flight with this error."""
        with self._lock:
            works, self._works = self._works, set()
            self._waiting.clear()
        for work in works:
            work.end(error)

    def _start(self, work: LaneWork, function: Callable[[], None]) -> LaneWork:
        with self._lock:
            self._works.add(work)

        def run() -> None:
            error = work.run(function, self._explain)
            with self._lock:
                self._works.discard(work)
            work.end(error)

        threading.Thread(target=run, name=f"pyparallel {work.what}", daemon=True).start()
        return work

    def _receive(self, receive: Receive) -> None:
        between = self._layout.between
        tag = 2 * receive.tag + 1
        while receive.header is None and not receive.work.is_completed():
            data = torch.empty(_HEADER.size, dtype=torch.uint8)
            if receive.source is None:
                # May outlive this recv, if another one's header request brings its header.
                between.recv_any(data, tag)
            else:
                coming = between.recv("recv", data, receive.source, tag)
                between.wait(coming, receive.source, "recv", for_ever=True)
            with self._lock:
                self._headers.append(Header.unpack(data))
                self._match()
        header = receive.header
        if header is None:
            return
        own = Header(header.source, receive.tag, header.number, receive.tensor.numel(), "")
        if (header.numel, header.dtype) != (own.numel, _dtype(receive.tensor)):
            raise CollectiveMismatchError(
                f"ranks disagree: rank {header.source} called send({header.numel} x {header.dtype}, "
                f"tag {receive.tag}), rank {self._layout.rank} called "
                f"recv({own.numel} x {_dtype(receive.tensor)}, tag {receive.tag})"
            )
        if receive.contents is not None:
            between.wait(receive.contents, header.source, "recv")
        receive.work.source = header.source

    def _match(self) -> None:
        """Gives the headers that are next in their order to the recvs that wait for them."""
        again = True
        while again:
            again = False
            for header in list(self._headers):
                if header.number != self._taken[header.source, header.tag]:
                    continue
                receive = next((r for r in self._waiting if r.accepts(header)), None)
                if receive is not None:
                    self._take(receive, header)
                    again = True

    def _take(self, receive: Receive, header: Header) -> None:
        self._headers.remove(header)
        self._waiting.remove(receive)
        self._taken[header.source, header.tag] += 1
        receive.header = header
        fits = (header.numel, header.dtype) == (receive.tensor.numel(), _dtype(receive.tensor))
        if fits and header.numel:
            between = self._layout.between
            receive.contents = between.recv(
                "recv", receive.tensor, header.source, 2 * receive.tag
            )


class OwnWork:
    """A message between two ranks of this host, whose errors name ranks of the job."""

    def __init__(
        self,
        work: Work,
        explain: Callable[[PyparallelError], BaseException],
        ranks: Sequence[int],
    ) -> None:
        self._work: Any = work
        self._explain = explain
        self._ranks = ranks

    @property
    def started_ns(self) -> int:
        """See Work."""
        return int(self._work.started_ns)

    @property
    def ended_ns(self) -> int:
        """See Work."""
        return int(self._work.ended_ns)

    @property
    def source(self) -> int:
        """The rank whose message a recv took. Known when it is completed."""
        return self._ranks[self._work.source]

    def wait(self) -> None:
        """See Work.wait."""
        try:
            self._work.wait()
        except PyparallelError as error:
            raise self._explain(error) from None

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        return bool(self._work.is_completed())

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        error = self._work.exception()
        return self._explain(error) if isinstance(error, PyparallelError) else error


def check_tag(what: str, tag: int) -> None:
    """Each tag takes two of Gloo's 31 bits, and a few are kept for other operations."""
    if not 0 <= tag < (1 << 30) - 1:
        raise ValueError(f"{what}: between hosts tag {tag} is not in [0, 2^30 - 1)")


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
