"""One pass over a loader: a reading thread, the stages' threads, and the end that the loop holds.

The threads know the window between them, never the iteration: when the loop drops that, they end.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pyparallel.data import tree
from pyparallel.data.meter import PREPROCESS, READ, STAGE, Meter
from pyparallel.data.resume import Position, skip
from pyparallel.data.staging import Transport
from pyparallel.data.threads import PipelineThread
from pyparallel.data.window import EndedError, Entry, Window

PATIENCE_SECONDS = 5.0
"""How long the end of an iteration waits for a loader that does not come back."""


@dataclass(frozen=True)
class Way:
    """What happens to every batch.

    Attributes:
        preprocess: functions, applied in turn.
        workers: threads that do so.
        transport: to the device; None if batches stay where they are.
        depth: most batches in flight.
        most_bytes: most bytes in flight; None for any.
        on_one_core: whether the loop computes on the cores, so that each thread keeps to one.
    """

    preprocess: Sequence[Callable[[Any], Any]]
    workers: int
    transport: Transport | None
    depth: int
    most_bytes: int | None
    on_one_core: bool

    def stages(self) -> list[tuple[str, Callable[[Entry], None], int]]:
        """Name, work and number of threads of each stage after reading."""
        stages: list[tuple[str, Callable[[Entry], None], int]] = []
        if self.preprocess:
            stages.append((PREPROCESS, self._preprocess, self.workers))
        if self.transport is not None:
            stages.append((STAGE, self._send, 1))
        return stages

    def _preprocess(self, entry: Entry) -> None:
        for function in self.preprocess:
            entry.value = function(entry.value)
        entry.num_bytes = max(entry.num_bytes, tree.num_bytes(entry.value))

    def _send(self, entry: Entry) -> None:
        assert self.transport is not None
        entry.value = self.transport.send(entry.value)


class Iteration(Iterator[Any]):
    """The batches of one pass, in order."""

    def __init__(
        self,
        source: list[Iterator[Any]],
        way: Way,
        *,
        number_to_skip: int,
        snapshot: Callable[[], Any],
        position: Position,
        meter: Meter,
    ) -> None:
        """Starts the threads.

        Args:
            source: the loader's iterator alone in a list, out of which it is taken: only the
                reading thread holds it, and ends it by dropping it.
            way: what happens to every batch.
            number_to_skip: batches to drop first.
            snapshot: the loader's state, called after each batch by the reading thread.
            position: moved with every batch delivered.
            meter: of waits and stages.
        """
        stages = way.stages()
        self._window = Window(depth=way.depth, most_bytes=way.most_bytes, stages=len(stages))
        self._way, self._position, self._meter = way, position, meter
        self._moving = threading.Lock()
        self._last_ns: int | None = None
        self._is_over = False
        self._process = os.getpid()
        read = (self._window, source, number_to_skip, snapshot)
        make = partial(PipelineThread, on_failure=self._window.stop, on_one_core=way.on_one_core)
        threads = [make(READ, _read, read)]
        for stage, (name, work, number) in enumerate(stages):
            serve = (self._window, stage, name, work)
            threads += [make(name, _serve, serve) for _ in range(number)]
        self._end = weakref.finalize(self, _end, self._window, threads, self._process)
        for thread in threads:
            thread.start()

    def __next__(self) -> Any:
        """Waits for the next batch.

        Raises:
            Exception: what the loader or a preprocess function raised for this batch, with its
                traceback; the iteration is over then.
            ValueError: the iteration was ended, or began in the parent of this process.
        """
        if os.getpid() != self._process:
            raise ValueError(
                "this iteration began in the parent of this process, whose threads stayed there: "
                "begin a new one with iter()"
            )
        if self._is_over:
            raise StopIteration
        start = time.monotonic_ns()
        ready = self._window.num_ready()
        try:
            entry = self._window.pop()
        except EndedError:
            if self._is_over:  # meanwhile, in another thread
                raise StopIteration from None
            raise
        if not entry.is_batch:
            return self._finish(entry, start)
        value, entry.value = entry.value, None  # for the threads may still hold the entry
        if self._way.transport is not None:
            value = self._way.transport.receive(value)
        with self._moving:  # several threads may draw from one iterator
            self._position.batches += 1
            self._position.loader_state = entry.loader_state
        self._add_wait(start, ready)
        self._meter.add_batch(entry.spans)
        return value

    def close(self, reason: str) -> None:
        """Ends the threads; whoever waits for a batch, or asks for one, gets a ValueError."""
        if os.getpid() == self._process:
            self._window.stop(reason)
        self._end()

    def _finish(self, entry: Entry, start: int) -> None:
        self._is_over = True
        self._add_wait(start, None)
        self._end()
        self._position.is_whole = entry.is_last
        error, entry.error = entry.error, None
        if error is None:
            self._position.batches, self._position.loader_state = 0, entry.loader_state
            raise StopIteration
        try:
            raise error
        finally:
            del error  # which its traceback would hold

    def _add_wait(self, start: int, ready: int | None) -> None:
        now, since = time.monotonic_ns(), self._last_ns
        self._last_ns = now
        self._meter.add_wait(start, now, ready=ready, since_ns=since)


def _read(
    window: Window, sources: list[Iterator[Any]], number_to_skip: int, snapshot: Callable[[], Any]
) -> None:
    source = sources.pop()
    goes_on = True
    while goes_on and window.wait_for_room():
        entry = Entry()
        start = time.monotonic_ns()
        try:
            if number_to_skip:
                skip(source, number_to_skip, is_stopped=lambda: window.is_stopped)
                number_to_skip, start = 0, time.monotonic_ns()
            try:
                entry.value = next(source)
                entry.num_bytes = tree.num_bytes(entry.value)
            except StopIteration:
                entry.is_last = True
            entry.loader_state = snapshot()
        except BaseException as error:
            entry.is_last = True
            entry.fail(error)
        goes_on = not entry.is_last
        if goes_on:
            entry.spans.append((READ, start, time.monotonic_ns(), entry.num_bytes))
        window.append(entry)
    del source  # which an error's traceback would keep


def _serve(window: Window, stage: int, name: str, work: Callable[[Entry], None]) -> None:
    while (entry := window.take(stage)) is not None:
        if entry.is_batch:
            start = time.monotonic_ns()
            try:
                work(entry)
            except StopIteration as error:
                entry.fail(_no_end(name, error))
            except BaseException as error:
                entry.fail(error)
            entry.spans.append((name, start, time.monotonic_ns(), entry.num_bytes))
        window.finish(entry)


def _no_end(name: str, error: StopIteration) -> RuntimeError:
    """A StopIteration that would pass for the loader's end, as PEP 479 has it for generators."""
    made = RuntimeError(f"{name} raised StopIteration")
    made.__cause__ = error
    return made


def _end(window: Window, threads: Sequence[threading.Thread], process: int) -> None:
    """Ends the threads of an iteration that is over, or that nobody holds any more."""
    if os.getpid() != process:
        return  # a forked child has neither the threads nor, perhaps, the lock
    window.stop("nobody holds it")
    if threading.current_thread() in threads:
        return  # collected by one of them, which cannot wait for itself
    deadline = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        if thread.ident is not None:  # the system may have had no thread left to start
            thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        warnings.warn(
            f"the loader has not come back for {PATIENCE_SECONDS:g} s: its thread is left alone "
            "and ends when it does",
            RuntimeWarning,
            stacklevel=2,
        )
