"""FlightLog: the last operations of this rank, noted when they are called and read when asked."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any, Protocol

from pyparallel.errors import PyparallelError

Record = dict[str, Any]
REMEMBERED = 64  # as many as in shared memory
NOT_DESCRIBED = "(...)"


class Observed(Protocol):
    """How far an operation is. It must keep no tensor alive: the log holds it."""

    @property
    def started_ns(self) -> int: ...
    @property
    def ended_ns(self) -> int: ...
    @property
    def completed(self) -> bool: ...
    @property
    def failed(self) -> bool: ...


class Flight:
    """One operation.

    Attributes:
        work: how far it is; None before it is issued.
        failed: it could not be issued.
    """

    __slots__ = ("_kind", "_number", "_peer", "_submitted_ns", "_tag", "failed", "work")

    def __init__(self, number: int, kind: str, tag: int, peer: int | None) -> None:
        self.work: Observed | None = None
        self.failed = False
        self._number = number
        self._kind = kind
        self._tag = tag
        self._peer = peer
        self._submitted_ns = time.monotonic_ns()

    def read(self) -> Record:
        """In plain words."""
        work = self.work
        described = getattr(work, "description", None) or self._kind + NOT_DESCRIBED
        state, started_ns, ended_ns = _progress(work)
        return {
            "number": self._number,
            "kind": self._kind,
            "peer": self._peer,
            "tag": self._tag,
            "state": "failed" if self.failed else state,
            "submitted_ns": self._submitted_ns,
            "started_ns": started_ns,
            "ended_ns": ended_ns,
            "operation": f"{described} #{self._tag}" if self._peer is None else described,
        }


class FlightLog:
    """The last operations of one communicator on this rank. Any thread may add or read."""

    def __init__(self, first: int = 1) -> None:
        """`first` is the place of the first collective in the common order."""
        self._numbers = itertools.count(1)
        self._collectives = itertools.count(first)
        # A slot each, not a deque: a thread that adds does not disturb one that copies.
        self._slots: list[Flight | None] = [None] * REMEMBERED

    def call(self, kind: str) -> Flight:
        """Notes a collective, which has its place in the common order. Takes about 0.5 us."""
        number = next(self._numbers)
        flight = self._slots[number % REMEMBERED] = Flight(
            number, kind, next(self._collectives), None
        )
        return flight

    def message(self, kind: str, peer: int, tag: int) -> Flight:
        """Notes a send or recv; peer -1: from any rank."""
        number = next(self._numbers)
        flight = self._slots[number % REMEMBERED] = Flight(number, kind, tag, peer)
        return flight

    def read(self) -> Record:
        """Process, host's time and operations, the oldest first."""
        operations = [flight.read() for flight in list(self._slots) if flight is not None]
        operations.sort(key=lambda operation: operation["number"])
        return {"process": os.getpid(), "taken_ns": time.monotonic_ns(), "operations": operations}


def _progress(work: Observed | None) -> tuple[str, int, int]:
    if work is None:
        return "submitted", 0, 0
    try:
        if work.failed:
            return "failed", 0, 0
        completed, started_ns = work.completed, work.started_ns
        if completed:
            return "completed", started_ns, work.ended_ns
        return "started" if started_ns else "submitted", started_ns, 0
    except PyparallelError:  # the device is of no use any more
        return "failed", 0, 0
