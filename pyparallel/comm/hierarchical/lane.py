"""Lane: runs a communicator's operations one after the other in a thread of its own.

All ranks call the operations in the same order, and each lane keeps it, so stages of one operation
never meet stages of another. Who waits for a work is woken by its end or by the communicator's
failure, whichever is first: a thread that is stuck in another library holds nobody up.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor

from pyparallel.comm._flight_log import Flight, FlightLog

Explain = Callable[[BaseException, str], BaseException]


class Progress:
    """How far an operation is, apart from its tensors: the flight record keeps it."""

    def __init__(self, description: str) -> None:
        self.description = description
        self.started_ns = 0
        self.ended_ns = 0
        self.completed = False
        self.failed = False


class LaneWork:
    """An operation in flight; keeps its tensors alive until it is completed.

    Attributes:
        what: the operation's name.
    """

    def __init__(
        self, what: str, tensors: tuple[Tensor, ...], progress: Progress | None = None
    ) -> None:
        """Writes the first of the tensors; `progress` is where it notes how far it is."""
        self.what = what
        self._progress = progress or Progress(what)
        self._tensors = tensors  # the first is the one that is written
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @property
    def started_ns(self) -> int:
        """See Work."""
        return self._progress.started_ns

    @property
    def ended_ns(self) -> int:
        """See Work."""
        return self._progress.ended_ns

    def wait(self) -> None:
        """See Work.wait."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        with self._lock:
            if self._tensors:
                torch.autograd.graph.increment_version(self._tensors[0])
                self._tensors = ()

    def pause(self, seconds: float) -> None:
        """Returns when it is completed, or after the time."""
        self._ended.wait(max(0.0, seconds))

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        return self._ended.is_set()

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        return self._error

    def run(self, function: Callable[[], object], explain: Explain) -> BaseException | None:
        """Runs the operation here; returns what it ends with."""
        self._progress.started_ns = time.monotonic_ns()
        try:
            inference = any(tensor.is_inference() for tensor in self._tensors)
            with torch.no_grad(), torch.inference_mode(inference):
                function()
        except BaseException as error:
            return explain(error, self.what)
        return None

    def end(self, error: BaseException | None) -> None:
        """Ends the operation, once: with this error, or well."""
        with self._lock:
            if self._ended.is_set():
                return
            progress = self._progress
            progress.ended_ns = time.monotonic_ns()
            progress.completed, progress.failed = error is None, error is not None
            self._error = error
            self._ended.set()


class Lane:
    """A queue of operations and the thread that runs them."""

    def __init__(self, explain: Explain, log: FlightLog) -> None:
        """`explain` turns what an operation raised into the communicator's failure."""
        self._log = log
        self.current = ""  # what runs now
        self._explain = explain
        self._issued = 0
        self._failure: BaseException | None = None
        self._in_flight: dict[int, LaneWork] = {}
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[int, Callable[[], object]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="pyparallel lane", daemon=True)
        self._thread.start()

    def submit(
        self, what: str, function: Callable[[], object], tensors: tuple[Tensor, ...]
    ) -> LaneWork:
        """Appends an operation; raises the communicator's failure if there is one."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            # What all ranks that call the same have in common: of whole and part it is the part.
            part = min(tensors, key=Tensor.numel, default=None)
            work = LaneWork(what, tensors, noted(self._log.call(what), what, part))
            self._issued += 1
            self._in_flight[self._issued] = work
            self._queue.put((self._issued, function))
        return work

    def fail(self, error: BaseException) -> None:
        """Ends everything in flight, and all that comes, with this error."""
        with self._lock:
            if self._failure is None:
                self._failure = error
            works, self._in_flight = list(self._in_flight.values()), {}
        for work in works:
            work.end(self._failure)
        self._queue.put(None)

    def _run(self) -> None:
        while (entry := self._queue.get()) is not None:
            number, function = entry
            work = self._in_flight.get(number)
            if work is None:  # failed
                continue
            self.current = work.what
            error = work.run(function, self._explain)
            self.current = ""
            with self._lock:
                self._in_flight.pop(number, None)
            work.end(error)


def noted(flight: Flight, what: str, tensor: Tensor | None, suffix: str = "") -> Progress:
    """The progress of an operation that is in the flight record."""
    operand = "" if tensor is None else f"{tensor.numel()} x {tensor.dtype}"
    progress = Progress(f"{what}({operand.replace('torch.', '')}{suffix})")
    flight.work = progress
    return progress
