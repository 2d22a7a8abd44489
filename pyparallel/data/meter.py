"""Where the input's time goes: waits of the loop, work of the stages, and what to do about it."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyparallel.monitor import SPANS

READ, PREPROCESS, STAGE, COPY = "read", "preprocess", "stage", "copy"
WAITS_REMEMBERED = 4096
INPUT_BOUND_SHARE = 0.05
_CURES = {
    READ: "read in more processes (DataLoader(num_workers=...)) or from faster storage",
    PREPROCESS: "give it more threads (workers=...) if it releases the GIL, else processes",
    STAGE: "let the loader make fewer, larger tensors, or pinned ones",
    COPY: "send smaller dtypes and convert them on the device",
}


@dataclass(frozen=True)
class Stage:
    """What one stage did, all its threads together.

    Attributes:
        batches: number of batches.
        seconds: time spent.
        num_bytes: bytes of these batches.
    """

    batches: int = 0
    seconds: float = 0.0
    num_bytes: int = 0

    @property
    def seconds_per_batch(self) -> float:
        """Mean time; 0 without batches."""
        return self.seconds / self.batches if self.batches else 0.0

    @property
    def gigabytes_per_second(self) -> float:
        """10^9 bytes a second; 0 where no time was measured."""
        return self.num_bytes / self.seconds * 1e-9 if self.seconds else 0.0

    def plus(self, other: Stage) -> Stage:
        """Both together."""
        return Stage(
            self.batches + other.batches,
            self.seconds + other.seconds,
            self.num_bytes + other.num_bytes,
        )


@dataclass(frozen=True)
class Report:
    """What the input cost the loop, over the life of a Prefetcher.

    Attributes:
        batches: delivered.
        loop_seconds: from the first request for a batch to the end of the last, over all
            iterations.
        wait_seconds: of these, spent waiting for batches.
        median_wait_seconds: of one request, over the latest 4096.
        fill_seconds: of wait_seconds, for the first batch of each iteration, when nothing could
            have been read ahead.
        mean_queue: batches that lay ready at a request, on average; without first requests.
        min_queue: the fewest; 0 if there was none.
        stages: "read" and, where there are such, "preprocess", "stage" (into pinned memory) and
            "copy" (on the device's copy stream).
    """

    batches: int
    loop_seconds: float
    wait_seconds: float
    median_wait_seconds: float
    fill_seconds: float
    mean_queue: float
    min_queue: int
    stages: Mapping[str, Stage] = field(default_factory=dict)

    @property
    def wait_share(self) -> float:
        """Part of the loop's time spent waiting, after the first batches have come."""
        seconds = self.loop_seconds - self.fill_seconds
        return (self.wait_seconds - self.fill_seconds) / seconds if seconds > 0 else 0.0

    @property
    def verdict(self) -> str:
        """Whether the input holds the loop up, in two words.

        "input bound" if the loop waits for more than 5 % of its time, else "compute bound"; "not
        measured" before a second batch was asked for.
        """
        if self.loop_seconds <= self.fill_seconds:
            return "not measured"
        return "input bound" if self.wait_share > INPUT_BOUND_SHARE else "compute bound"

    @property
    def advice(self) -> str:
        """One sentence: what to do."""
        if self.verdict == "not measured" or not self.stages:
            return "no step has run between two batches yet"
        slowest = max(self.stages, key=lambda name: self.stages[name].seconds)
        costs = f"{1e3 * self.stages[slowest].seconds_per_batch:.3g} ms a batch"
        if self.verdict == "compute bound":
            return f"the input keeps up, its slowest part being {slowest!r} with {costs}"
        return f"the slowest part is {slowest!r} with {costs}: {_CURES[slowest]}"

    def __str__(self) -> str:
        lines = [
            f"{self.verdict}: waits take {100 * self.wait_share:.1f} % of the loop "
            f"(median {1e3 * self.median_wait_seconds:.3g} ms a step, {self.batches} batches, "
            f"{self.mean_queue:.1f} ready on average, at least {self.min_queue})",
            *(
                f"  {name:10} {1e3 * one.seconds_per_batch:8.3g} ms a batch, "
                f"{one.gigabytes_per_second:.3g} GB/s"
                for name, one in self.stages.items()
            ),
            self.advice,
        ]
        return "\n".join(lines)


class Meter:
    """Adds up; spans go to pyparallel.monitor as "data wait", "data read" and so on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._batches = self._requests = self._queued = 0
        self._min_queue: int | None = None
        self._loop = self._wait = self._fill = 0.0
        self._waits: deque[float] = deque(maxlen=WAITS_REMEMBERED)
        self._stages: dict[str, Stage] = {}

    def add_wait(
        self, start_ns: int, end_ns: int, *, ready: int | None, since_ns: int | None
    ) -> None:
        """Counts one request for a batch.

        Args:
            start_ns: when it came.
            end_ns: when it was answered.
            ready: batches that lay ready when it came; None if no batch was left.
            since_ns: end of the iteration's request before; None for its first.
        """
        seconds = (end_ns - start_ns) * 1e-9
        with self._lock:
            self._wait += seconds
            self._loop += (end_ns - (start_ns if since_ns is None else since_ns)) * 1e-9
            self._waits.append(seconds)
            if since_ns is None:
                self._fill += seconds
            elif ready is not None:
                self._requests += 1
                self._queued += ready
                self._min_queue = ready if self._min_queue is None else min(ready, self._min_queue)
        SPANS.record("data wait", start_ns, end_ns)

    def add_batch(self, spans: Iterable[tuple[str, int, int, int]]) -> None:
        """Counts a delivered batch; spans are (stage, begin, end, bytes)."""
        with self._lock:
            self._batches += 1
            for name, start_ns, end_ns, num_bytes in spans:
                one = Stage(1, (end_ns - start_ns) * 1e-9, num_bytes)
                self._stages[name] = self._stages.get(name, Stage()).plus(one)
                SPANS.record(f"data {name}", start_ns, end_ns)

    def report(self, *, copied: Stage | None = None) -> Report:
        """What there is so far, and what the device's copy stream did."""
        with self._lock:
            stages = dict(self._stages)
            if copied is not None and copied.batches:
                stages[COPY] = copied
            return Report(
                batches=self._batches,
                loop_seconds=self._loop,
                wait_seconds=self._wait,
                median_wait_seconds=statistics.median(self._waits) if self._waits else 0.0,
                fill_seconds=self._fill,
                mean_queue=self._queued / self._requests if self._requests else 0.0,
                min_queue=self._min_queue or 0,
                stages=stages,
            )
