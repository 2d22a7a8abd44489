"""FailureWatch: a rank that dies, fails or leaves is named on every other rank at once.

    rank 0 ---- rank 1 ---- rank 2 ---- ... ---- rank n-1 ---- rank 0

A ring of TCP connections beside the data. The kernel closes a dead process's connections, whatever
killed it and whatever it was doing, so its neighbours know without heartbeats, which a long call
that holds the interpreter's lock would miss. What a rank learns it passes on to both sides.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import Store

from pyparallel.comm import links
from pyparallel.errors import CollectiveTimeoutError, PeerFailedError, PeerLostError

_JOIN_SECONDS = 1.0
_watches: weakref.WeakSet[FailureWatch] = weakref.WeakSet()


@dataclass(frozen=True)
class Failure:
    """Why a communicator is of no use any more.

    Attributes:
        rank: that died or failed.
        operation: it was in, or "".
        cause: its own words, or how its death was seen.
        lost: it died, or cannot be reached; otherwise it said that it has failed.
    """

    rank: int
    operation: str
    cause: str
    lost: bool

    def error(self, doing: str) -> PeerLostError | PeerFailedError:
        """The typed error; `doing` is what this rank was in."""
        if self.lost:
            return PeerLostError(f"rank {self.rank} died ({self.cause}); {doing}", self.rank)
        where = f" in {self.operation}" if self.operation else ""
        message = f"rank {self.rank} failed{where}: {self.cause}; {doing}"
        return PeerFailedError(message, self.rank, self.operation, self.cause)


class FailureWatch:
    """Tells every rank about the first failure of any; a thread that sleeps until there is one.

    A stopped or busy process is not lost: its kernel still answers. A host that is cut off is lost
    after `silence_seconds`, on both sides of the cut.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        on_failure: Callable[[Failure], None],
        *,
        on_left: Callable[[int], None] | None = None,
        on_asked: Callable[[int], None] | None = None,
        address: str | None = None,
        timeout_seconds: float = 60.0,
        silence_seconds: float = 10.0,
    ) -> None:
        """Joins the ring; collective over the ranks, returns when both neighbours are linked.

        Args:
            store: where the ranks' addresses meet; of this watch alone (a PrefixStore).
            rank: of this process.
            world_size: number of ranks.
            on_failure: called once, in the watch's thread, with another rank's failure.
            on_left: called in that thread with each rank that has closed its watch.
            on_asked: called in that thread with the number of another rank's ask().
            address: of this host as the others reach it; default: that of the way to MASTER_ADDR.
            timeout_seconds: deadline of this call.
            silence_seconds: how long a connection may be mute to the kernel's own probes.

        Raises:
            CollectiveTimeoutError: a neighbour did not come.
            PeerLostError: one came, and is gone already.
        """
        self.rank = rank
        self.world_size = world_size
        self.failure: Failure | None = None
        self._on_failure = on_failure
        self._on_left = on_left
        self._on_asked = on_asked
        self._asked = 0
        self._silence_seconds = silence_seconds
        self._lock = threading.Lock()
        self._links: dict[socket.socket, int] = {}  # to the rank behind it
        self._left: set[int] = set()
        self._closed = world_size == 1
        if self._closed:
            return
        with links.listen(address or links.own_address()) as listener:
            self._join_ring(store, listener, time.monotonic() + timeout_seconds)
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="pyparallel watch", daemon=True)
        self._thread.start()
        _watches.add(self)

    def fail(self, operation: str, cause: str) -> None:
        """Tells the others that this rank has failed; has been sent when it returns."""
        self.report(Failure(self.rank, operation, cause, lost=False))

    def report(self, failure: Failure) -> None:
        """Tells the others of a failure that was seen elsewhere. Only the first one counts."""
        with self._lock:
            if self._closed or self.failure is not None:
                return
            self.failure = failure
        self._send({"failure": asdict(failure)})

    def ask(self, number: int) -> bool:
        """Asks every other rank; the highest number that is under way is enough for all.

        Returns:
            False if this rank has left.
        """
        with self._lock:
            self._asked = max(self._asked, number)
        self._send({"ask": number})
        return not self._closed

    @property
    def closed(self) -> bool:
        """Whether this rank has left."""
        return self._closed

    def close(self) -> None:
        """Leaves in good order; calling it twice is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._send({"left": self.rank})
        self._waker.close()
        if threading.current_thread() is not self._thread:
            self._thread.join(_JOIN_SECONDS)

    # ---- the ring ----

    def _join_ring(self, store: Store, listener: socket.socket, deadline: float) -> None:
        host, port = listener.getsockname()[:2]
        token = secrets.token_hex(16)
        record = {"host": host, "port": port, "token": token}
        store.set(f"watch{self.rank}", json.dumps(record))
        following = (self.rank + 1) % self.world_size
        self._connect(self._record_of(following, store, deadline), following, deadline)
        previous = (self.rank - 1) % self.world_size
        try:
            link = links.accept(listener, f"{token} {previous}", deadline, self._silence_seconds)
        except OSError as error:
            self._close_sockets()
            raise self._missing(previous, str(error)) from None
        self._links[link] = previous

    def _record_of(self, rank: int, store: Store, deadline: float) -> dict[str, Any]:
        key, seconds = f"watch{rank}", max(0.1, deadline - time.monotonic())
        try:
            store.wait([key], timedelta(seconds=seconds))
        except RuntimeError as error:
            raise self._missing(rank, str(error).splitlines()[0]) from None
        record: dict[str, Any] = json.loads(store.get(key))
        return record

    def _connect(self, record: dict[str, Any], rank: int, deadline: float) -> None:
        place, greeting = (record["host"], record["port"]), f"{record['token']} {self.rank}"
        try:
            link = links.connect(place, greeting, deadline, self._silence_seconds)
        except OSError as error:
            message = f"rank {rank} died before rank {self.rank} could reach it ({error})"
            raise PeerLostError(message, rank) from None
        self._links[link] = rank

    def _missing(self, rank: int, reason: str) -> CollectiveTimeoutError:
        return CollectiveTimeoutError(
            f"rank {self.rank} waited for rank {rank}, which did not come to the watch ({reason})"
        )

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            for link in self._links:
                with suppress(OSError):  # a dead neighbour is found by the thread
                    link.sendall(line)

    # ---- the thread ----

    def _run(self) -> None:
        pending: dict[socket.socket, bytes] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake, selectors.EVENT_READ)
            for link in self._links:
                selector.register(link, selectors.EVENT_READ, link)
            while not self._closed:
                for key, _ in selector.select():
                    if key.data is not None and not self._hear(key.data, pending):
                        selector.unregister(key.data)
        self._wake.close()
        self._close_sockets()

    def _hear(self, link: socket.socket, pending: dict[socket.socket, bytes]) -> bool:
        """Takes what a neighbour says; False once it is gone."""
        cause = "its connection was closed"
        try:
            data = link.recv(65536)
        except OSError as error:
            data, cause = b"", str(error)
        *lines, pending[link] = (pending.get(link, b"") + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        if data:
            return True
        with self._lock:
            rank = self._links.pop(link)
        link.close()
        if rank not in self._left:
            self._learn(Failure(rank, "", cause, lost=True))
        return False

    def _take(self, message: dict[str, Any]) -> None:
        if "failure" in message:
            self._learn(Failure(**message["failure"]))
        elif "ask" in message:
            self._hear_question(message["ask"])
        elif message["left"] not in self._left:
            self._left.add(message["left"])
            self._send(message)
            if self._on_left is not None and message["left"] != self.rank:
                self._on_left(message["left"])

    def _hear_question(self, number: int) -> None:
        with self._lock:
            known = number <= self._asked
            self._asked = max(self._asked, number)
        if known:
            return
        self._send({"ask": number})
        if self._on_asked is not None:
            self._on_asked(number)

    def _learn(self, failure: Failure) -> None:
        if self._closed or self.failure is not None:
            return
        self.report(failure)
        self._on_failure(failure)

    def _close_sockets(self) -> None:
        with self._lock:
            open_links = list(self._links)
            self._links.clear()
        for link in open_links:
            link.close()


def _forget_in_child() -> None:
    """A forked child would keep a dead parent's connections open."""
    for watch in list(_watches):
        watch._closed = True
        watch._lock = threading.Lock()  # another thread may have held it
        for source in (*watch._links, watch._wake, watch._waker):
            source.close()


os.register_at_fork(after_in_child=_forget_in_child)
