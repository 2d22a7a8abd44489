"""What is in flight between the loader and the loop: in order, bounded in batches and in bytes.

    reader --append--> [ 7 6 | 5 | 4 3 ] --pop--> loop
                         |     |    `-- passed all stages: ready
                         |     `------- in the last stage
                         `------------- in the first stage

Each stage takes the batches in order; a stage with several threads may finish them in any.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

SIZES_REMEMBERED = 64


@dataclass(slots=True, eq=False)
class Entry:
    """A batch on its way, or the loader's end, or an error in a batch's place.

    Attributes:
        value: the batch, as the last stage left it.
        num_bytes: its size, the largest that it had so far.
        loader_state: of the loader, as of this batch.
        error: raised in place of this batch.
        is_last: whether reading ended here, by the loader's end or by an error of its own.
        spans: what was done, (stage, begin, end, bytes), in nanoseconds of time.monotonic_ns().
        passed: number of stages that are done.
    """

    value: Any = None
    num_bytes: int = 0
    loader_state: Any = None
    error: BaseException | None = None
    is_last: bool = False
    spans: list[tuple[str, int, int, int]] = field(default_factory=list)
    passed: int = 0

    @property
    def is_batch(self) -> bool:
        """Whether there is a batch to work on."""
        return self.error is None and not self.is_last

    def fail(self, error: BaseException) -> None:
        """Puts an error in the batch's place."""
        self.value, self.error = None, error

    def forget(self) -> None:
        """Drops batch and error: an error's traceback holds frames that hold the entry."""
        self.value = self.error = None


class EndedError(ValueError):
    """Somebody waits for batches of what has been ended."""


class Window:
    """The entries in flight; every wait ends with `stop`.

    Args:
        depth: most batches in flight, that being read included.
        most_bytes: most bytes in flight; a larger batch passes alone. None for any.
        stages: number of stages between the reader and the loop.
    """

    def __init__(self, *, depth: int, most_bytes: int | None, stages: int) -> None:
        # Re-entrant, because the garbage collector may end this very window from within.
        lock = threading.RLock()
        self._lock = lock
        self._room = threading.Condition(lock)
        self._work = [threading.Condition(lock) for _ in range(stages)]
        self._ready = threading.Condition(lock)
        self._depth, self._most_bytes, self._stages = depth, most_bytes, stages
        self._entries: deque[Entry] = deque()
        self._popped = 0
        self._taken = [0] * stages
        self._sizes: deque[int] = deque(maxlen=SIZES_REMEMBERED)
        self._reason: BaseException | str | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether threads are to end."""
        return self._reason is not None

    def wait_for_room(self) -> bool:
        """Waits until another batch may be read; False when the reader is to end."""
        with self._lock:
            while not self.is_stopped and not self.has_room():
                self._room.wait()
            return not self.is_stopped

    def has_room(self) -> bool:
        """Whether another batch may be read.

        What is not ready yet, and what comes next, is reckoned as large as the largest of late.
        """
        if not self._entries:
            return True
        if len(self._entries) >= self._depth:
            return False
        if self._most_bytes is None:
            return True
        if not self._sizes:
            return False  # the first tells how large they are
        expected = max(self._sizes)
        in_flight = sum(
            one.num_bytes if one.passed == self._stages else max(one.num_bytes, expected)
            for one in self._entries
        )
        return in_flight + expected <= self._most_bytes

    def append(self, entry: Entry) -> None:
        """Adds what was read."""
        with self._lock:
            if self.is_stopped:
                entry.forget()
                return
            self._entries.append(entry)
            if self._stages:
                self._work[0].notify()
            else:
                self._make_ready(entry)

    def take(self, stage: int) -> Entry | None:
        """Waits for the next entry of a stage; None when its thread is to end."""
        with self._lock:
            while not self.is_stopped:
                position = self._taken[stage] - self._popped
                if position < len(self._entries) and self._entries[position].passed == stage:
                    self._taken[stage] += 1
                    return self._entries[position]
                self._work[stage].wait()
            return None

    def finish(self, entry: Entry) -> None:
        """Says that a stage is done with an entry."""
        with self._lock:
            if self.is_stopped:
                entry.forget()
                return
            entry.passed += 1
            if entry.passed == self._stages:
                self._make_ready(entry)
            else:
                self._work[entry.passed].notify()

    def num_ready(self) -> int:
        """Number of batches that could be had without waiting."""
        with self._lock:
            for position, entry in enumerate(self._entries):
                if entry.passed < self._stages or not entry.is_batch:
                    return position
            return len(self._entries)

    def pop(self) -> Entry:
        """Waits for the oldest entry to have passed all stages, and takes it out.

        Raises:
            EndedError: `stop` was called.
        """
        with self._lock:
            while not self.is_stopped:
                if self._entries and self._entries[0].passed == self._stages:
                    self._popped += 1
                    self._room.notify()
                    self._ready.notify()  # one more thread may wait for the one behind
                    return self._entries.popleft()
                self._ready.wait()
            if isinstance(self._reason, BaseException):
                raise self._reason
            raise EndedError(f"no more batches of this iteration: {self._reason}")

    def stop(self, reason: BaseException | str) -> None:
        """Ends all waits and forgets the entries; only the first reason counts."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
            for position, entry in enumerate(self._entries):
                stage = entry.passed
                if stage == self._stages or self._taken[stage] <= self._popped + position:
                    entry.forget()  # nobody works on it; what is worked on `finish` forgets
            self._entries.clear()
            for condition in (self._room, *self._work, self._ready):
                condition.notify_all()

    def _make_ready(self, entry: Entry) -> None:
        if entry.is_batch:
            self._sizes.append(entry.num_bytes)
        self._ready.notify()
        self._room.notify()
