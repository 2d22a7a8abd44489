"""Messages: send and recv, through shared memory on one host and over Gloo between hosts.

Gloo ends the process of a receiver whose tensor is smaller than the message. So a header that names
size and dtype goes first, and the contents are received once both sides are known to agree:

    send(tensor, tag t)    header      -> Gloo tag 2t + 1        recv(tensor, tag t)
                           contents    -> Gloo tag 2t, once a recv has taken the header
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pyparallel.comm._flight_log import FlightLog
from pyparallel.comm.communicator import Work
from pyparallel.comm.hierarchical.lane import Explain, LaneWork, Progress, noted
from pyparallel.comm.hierarchical.layout import Layout
from pyparallel.comm.hierarchical.own_work import OwnProgress, OwnWork
from pyparallel.comm.hierarchical.receives import HEADER_BYTES, Header, Matching, Receive
from pyparallel.errors import CollectiveMismatchError, CollectiveTimeoutError, PeerLostError


class Messages:
    """The messages of one rank."""

    def __init__(self, layout: Layout, explain: Explain, log: FlightLog) -> None:
        """`explain` turns what a message raised into the communicator's failure."""
        self._layout = layout
        self._explain = explain
        self._log = log
        self._sent: Counter[tuple[int, int]] = Counter()
        self._matching = Matching(self._let_come)
        self._in_flight: set[LaneWork] = set()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()

    def send(self, tensor: Tensor, destination: int, tag: int) -> Work:
        """See Communicator.send."""
        _check_tag("send", tag)
        hosts, own = self._layout.hosts, self._layout.own
        if hosts.host_of[destination] == self._layout.host:
            local = hosts.local_of[destination]
            sent = self._own("send", lambda: own.send(tensor, local, tag=tag))
            self._log.message("send", destination, tag).work = OwnProgress(sent)
            return sent
        between = self._layout.between
        with self._lock:  # header and contents of one message after those of the other
            number = self._sent[destination, tag]
            self._sent[destination, tag] += 1
            header = Header(self._layout.rank, tag, number, tensor.numel(), _dtype(tensor)).pack()
            works = [between.send("send", header, destination, 2 * tag + 1)]
            if tensor.numel():
                works.append(between.send("send", tensor, destination, 2 * tag))

        def finish() -> None:
            for work in works:
                between.wait(work, destination, "send")

        progress = self._note("send", tensor, destination, tag)
        sending = LaneWork("send", (header, tensor), progress)
        self._keep(sending)
        self._start(sending, finish)
        return sending

    def recv(self, tensor: Tensor, source: int | None, tag: int) -> Work:
        """See Communicator.recv."""
        _check_tag("recv", tag)
        hosts, own = self._layout.hosts, self._layout.own
        if source is not None and hosts.host_of[source] == self._layout.host:
            local = hosts.local_of[source]
            received = self._own("recv", lambda: own.recv(tensor, local, tag=tag))
            self._log.message("recv", source, tag).work = OwnProgress(received)
            return received
        of_host = None
        if source is None and own.world_size > 1:
            of_host = self._own("recv", lambda: own.recv(tensor, None, tag=tag))
        receive = Receive(
            tensor,
            source,
            tag,
            own=of_host,
            timeout_seconds=self._layout.between.timeout_seconds,
            overdue=self._overdue,
            progress=self._note("recv", tensor, source, tag),
        )
        self._keep(receive)
        self._complete(self._matching.add_receive(receive))
        self._request_headers()
        return receive

    def fail(self, error: BaseException) -> None:
        """Ends everything in flight with this error."""
        with self._lock:
            self._failure = error
            works, self._in_flight = self._in_flight, set()
        for work in works:
            work.end(error)

    def _note(self, what: str, tensor: Tensor, peer: int | None, tag: int) -> Progress:
        flight = self._log.message(what, -1 if peer is None else peer, tag)
        who = "any rank" if peer is None else f"rank {peer}"
        direction = "to" if what == "send" else "from"
        return noted(flight, what, tensor, f", {direction} {who}, tag {tag}")

    def _own(self, what: str, start: Callable[[], Work]) -> OwnWork:
        return OwnWork(self._layout, self._explain, what, start)

    def _keep(self, work: LaneWork) -> None:
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._in_flight = {other for other in self._in_flight if not other.is_completed()}
            self._in_flight.add(work)

    def _start(self, work: LaneWork, function: Callable[[], None]) -> None:
        def run() -> None:
            work.end(work.run(function, self._explain))

        threading.Thread(target=run, name=f"pyparallel {work.what}", daemon=True).start()

    def _request_headers(self) -> None:
        """Asks for as many headers as recvs wait for, each in a thread that waits for one."""
        for wanted, tag in self._matching.requests():
            self._start(LaneWork("recv", ()), partial(self._fetch_header, wanted, tag))

    def _fetch_header(self, wanted: int | None, tag: int) -> None:
        between = self._layout.between
        data = torch.empty(HEADER_BYTES, dtype=torch.uint8)
        try:
            if wanted is None:
                between.recv_any(data, 2 * tag + 1)
            else:
                coming = between.recv("recv", data, wanted, 2 * tag + 1)
                between.wait(coming, wanted, "recv", for_ever=True)
        except (RuntimeError, PeerLostError):
            if self._matching.give_up(wanted, tag):
                raise
            return
        self._complete(self._matching.add_header(Header.unpack(data), wanted))
        self._request_headers()

    def _complete(self, receives: list[Receive]) -> None:
        """Receives the contents for recvs that have taken a header."""
        for receive in receives:
            self._start(receive, partial(self._receive, receive))

    def _receive(self, receive: Receive) -> None:
        header = receive.header
        assert header is not None
        if not _fits(header, receive.tensor):
            raise CollectiveMismatchError(
                f"ranks disagree: rank {header.source} called send({header.numel} x {header.dtype},"
                f" tag {header.tag}), rank {self._layout.rank} called recv("
                f"{receive.tensor.numel()} x {_dtype(receive.tensor)}, tag {header.tag})"
            )
        if receive.contents is not None:
            self._layout.between.wait(receive.contents, header.source, "recv")
        receive.source = header.source

    def _let_come(self, receive: Receive, header: Header) -> None:
        if _fits(header, receive.tensor) and header.numel:
            receive.contents = self._layout.between.recv(
                "recv", receive.tensor, header.source, 2 * header.tag
            )
        receive.header = header

    def _overdue(self, receive: Receive) -> None:
        hosts, seconds = self._layout.hosts, self._layout.between.timeout_seconds
        who = "any rank" if receive.wanted is None else hosts.describe(receive.wanted)
        error = CollectiveTimeoutError(
            f"rank {self._layout.rank} waited {seconds:g} s for {who} in recv()"
        )
        self._explain(error, "recv")


def _check_tag(what: str, tag: int) -> None:
    """Each tag takes two of Gloo's 31 bits, and a few are kept for other operations."""
    if not 0 <= tag < (1 << 30) - 1:
        raise ValueError(f"{what}: between hosts tag {tag} is not in [0, 2^30 - 1)")


def _fits(header: Header, tensor: Tensor) -> bool:
    return (header.numel, header.dtype) == (tensor.numel(), _dtype(tensor))


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
