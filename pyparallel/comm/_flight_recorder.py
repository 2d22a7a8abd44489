"""FlightRecorder: the flight record of ranks that share no memory, asked for or after a failure."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from torch._C._distributed_c10d import Store

from pyparallel.comm import flight
from pyparallel.comm._flight_exchange import FlightExchange
from pyparallel.comm._flight_log import FlightLog, Record
from pyparallel.comm._who_waits import find_waits, in_words
from pyparallel.comm.watch import FailureWatch
from pyparallel.errors import CollectiveTimeoutError

_ANSWER_SECONDS = 1.0


class FlightRecorder:
    """What the ranks of one communicator did last.

    Attributes:
        log: where this rank's operations are noted.
        left: the ranks that have closed their communicator.
    """

    def __init__(self, store: Store, rank: int, world_size: int, *, first: int = 1) -> None:
        """Records nothing yet; `store` is of this recorder alone. `first`: see FlightLog."""
        self.log = FlightLog(first)
        self.left: set[int] = set()
        self._rank = rank
        self._world_size = world_size
        self._process = os.getpid()
        self._exchange = FlightExchange(store, rank, world_size, self._read)
        self._watch: FailureWatch | None = None
        self._more: Callable[[], Record] = dict
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._waiting: str | None = None

    def asked(self, number: int) -> None:
        """For the watch to call; returns at once."""
        self._exchange.answer(number)

    def begin(self, watch: FailureWatch) -> None:
        """Questions to the other ranks go through the watch."""
        self._watch = watch

    def add(self, more: Callable[[], Record]) -> None:
        """`more` gives what else belongs into this rank's record."""
        self._more = more

    def record(self) -> Record:
        """The record of all ranks; see flight.record(). Waits for answers, at most about 1 s.

        Raises:
            ValueError: in a forked child.
        """
        if os.getpid() != self._process:
            raise ValueError(
                f"this communicator belongs to process {self._process}; a forked child (process "
                f"{os.getpid()}) has no flight record of it"
            )
        return self._assemble(self._exchange.collect(self._ask, _ANSWER_SECONDS))

    def explain(self, error: CollectiveTimeoutError) -> None:
        """Appends who waits for whom to the error; takes as long as record() the first time."""
        if self._waiting is None:
            record = self.record()
            self._waiting = record["waiting"]
        text = str(error)
        if self._waiting not in text:
            error.args = (f"{text}\n{self._waiting}", *error.args[1:])

    def failed(self, error: BaseException) -> None:
        """The communicator has failed: leaves this rank's record for the others and in a file.

        Returns at once. Only the first call counts. A process that ends meanwhile waits for the
        file, about 1 s.
        """
        with self._lock:
            if self._failure is not None:
                return
            self._failure = str(error)
        self._exchange.publish_last()
        directory = os.environ.get(flight.DIRECTORY_VARIABLE)
        if directory:
            path = flight.path_in(Path(directory), self._rank)
            with suppress(RuntimeError):  # the interpreter ends: no new threads
                threading.Thread(
                    target=self._write, args=(path,), name="pyparallel flight file"
                ).start()

    def _write(self, path: Path) -> None:
        error = str(self._failure)
        # This rank's own first: what started the job may kill it any moment.
        flight.write_failure(path, self._assemble({}), error)
        flight.write_failure(path, self.record(), error)

    def _ask(self, number: int) -> bool:
        return self._watch is not None and self._watch.ask(number)

    def _read(self) -> Record:
        return {**self.log.read(), "failure": self._failure}

    def _assemble(self, others: dict[int, Record]) -> Record:
        known = {**others, self._rank: self._read()}
        nothing: Record = {"process": None, "taken_ns": 0, "operations": [], "failure": None}
        ranks = [
            {"rank": rank, "left": rank in self.left, **known.get(rank, nothing)}
            for rank in range(self._world_size)
        ]
        find_waits(ranks)
        return {
            "rank": self._rank,
            "world_size": self._world_size,
            "taken_ns": time.monotonic_ns(),
            "waiting": in_words(ranks),
            "ranks": ranks,
            **self._more(),
        }
