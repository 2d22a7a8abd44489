"""FlightExchange: every rank's flight record for one of them, also of ranks that hang.

    rank that asks                       every other rank
    a number from the store  -- watch --> its watch's thread hears it and starts another one,
    polls the store          <-- store -- which puts the rank's record there

The watch carries the question only, which is short: a long answer could fill the connections of two
neighbours that both write. The store may be gone, so only threads of this file call it, and nobody
waits for them longer than for an answer.
"""

from __future__ import annotations

import atexit
import json
import threading
import time
import weakref
from collections.abc import Callable

from torch._C._distributed_c10d import Store

from pyparallel.comm._flight_log import Record

_MOST_PAUSE_SECONDS = 0.05
_LAST_SECONDS = 0.3
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_ending = threading.Event()


class FlightExchange:
    """Publishes this rank's record when another asks, and asks for the others'."""

    def __init__(
        self, store: Store, rank: int, world_size: int, read: Callable[[], Record]
    ) -> None:
        """Asks nobody yet.

        Args:
            store: of this exchange alone (a PrefixStore).
            rank: of this process.
            world_size: number of ranks.
            read: this rank's record as it is now.
        """
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._read = read
        self._lock = threading.Lock()
        self._asked = 0  # the highest question heard
        self._failed = False
        self._due = False
        self._publishing = False

    def answer(self, asked: int) -> None:
        """Another rank has asked; returns at once."""
        with self._lock:
            self._asked = max(self._asked, asked)
        self._start_publishing()

    def publish_last(self) -> None:
        """This rank has failed: what it has done is found even when it is gone. Returns at once."""
        self._failed = True
        self._start_publishing()

    def collect(self, ask: Callable[[int], bool], seconds: float) -> dict[int, Record]:
        """The records of the other ranks that answer within the time.

        Args:
            ask: sends a question to all other ranks; False if there is no way any more.
            seconds: after which those that have answered are returned.
        """
        if self._world_size == 1:
            return {}
        found: dict[int, Record] = {}
        through = threading.Event()
        deadline = time.monotonic() + seconds

        def run() -> None:
            try:
                self._gather(ask, deadline, found)
            except (RuntimeError, ValueError):  # the store is gone
                pass
            finally:
                through.set()

        if _start(run):
            through.wait(seconds)
        return dict(found)

    def _gather(
        self, ask: Callable[[int], bool], deadline: float, found: dict[int, Record]
    ) -> None:
        asked, pause = self._store.add("asked", 1), 0.001
        self.answer(asked)  # a lower question may not come through to here any more
        seconds = 0.0 if not ask(asked) else deadline - time.monotonic()
        missing = {rank for rank in range(self._world_size) if rank != self._rank}
        deadline = time.monotonic() + seconds
        while True:
            for rank in sorted(missing):
                if self._store.check([f"rank{rank}"]):
                    entry = json.loads(self._store.get(f"rank{rank}"))
                    if entry["last"] or entry["asked"] >= asked:
                        found[rank] = entry["record"]
                        missing.discard(rank)
            if not missing or time.monotonic() > deadline:
                return
            time.sleep(pause)
            pause = min(2 * pause, _MOST_PAUSE_SECONDS)

    def _start_publishing(self) -> None:
        with self._lock:
            self._due = True
            if self._publishing:
                return
            self._publishing = True
        if not _start(self._publish):
            self._publishing = False

    def _publish(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._publishing = False
                    return
                self._due = False
                asked, last = self._asked, self._failed
            entry = {"asked": asked, "last": last, "record": self._read()}
            try:
                self._store.set(f"rank{self._rank}", json.dumps(entry))
            except (RuntimeError, ValueError):  # gone: who asks does not wait for long
                continue


def _start(run: Callable[[], None]) -> bool:
    if _ending.is_set():
        return False
    thread = threading.Thread(target=run, name="pyparallel flight", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads, or the interpreter ends: the watch goes on
        return False
    _threads.add(thread)
    return True


def _end() -> None:
    """A thread that comes back from torch's store while the interpreter ends would abort it."""
    _ending.set()
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in list(_threads):
        if thread.ident is not None:  # it has been started
            thread.join(max(0.0, deadline - time.monotonic()))


atexit.register(_end)
