"""The one timer: contestants take turns in the same run, and only verified results get a number.

Once they are verified, every run of every contestant is

    prepare (not timed) -> all ranks start together (not timed) -> run (timed)

    round 0    A B        orders in turn, in which each is first, second ... equally often;
    round 1    B A        the time of a round is that of its slowest rank,
    round 2    A B        a ratio is the median of the rounds' ratios
"""

import gc
import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

COPY_BYTES = 256 << 20


class WrongResultError(Exception):
    """A contestant computes something else than it should, so there is nothing to time."""


@dataclass(frozen=True)
class Spread:
    """What a list of numbers comes to: the median, and the range of the middle 80 %."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarises at least one number."""
        p10, median, p90 = np.percentile(list(values), [10, 50, 90]).tolist()
        return cls(median, p10, p90)


@dataclass(frozen=True)
class Contestant:
    """One of the things compared: `run` is timed, `prepare` comes before each run and is not."""

    name: str
    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


class Ranks(Protocol):
    """The processes that measure together."""

    world_size: int

    def barrier(self) -> None:
        """Returns when all ranks have called it."""

    def slowest(self, seconds: Sequence[float]) -> list[float]:
        """The largest of all ranks' values, place by place; the same on all ranks."""


class OneRank:
    """A single process."""

    world_size = 1

    def barrier(self) -> None:
        """Returns at once."""

    def slowest(self, seconds: Sequence[float]) -> list[float]:
        """The values themselves."""
        return list(seconds)


@dataclass(frozen=True)
class Measurement:
    """Seconds per run of every contestant, round by round, and of a copy of `copied_bytes`."""

    seconds: dict[str, list[float]]
    copy_seconds: list[float] = field(default_factory=list)
    copied_bytes: int = 0

    def time(self, name: str) -> Spread:
        """Seconds per run."""
        return Spread.of(self.seconds[name])

    def ratio(self, numerator: str, denominator: str) -> Spread:
        """One contestant's time over another's in the same round."""
        pairs = zip(self.seconds[numerator], self.seconds[denominator], strict=True)
        return Spread.of(above / below for above, below in pairs)

    def copy_bandwidth(self) -> float | None:
        """Bytes per second that the copy read and wrote over all ranks; None without a copy."""
        if not self.copied_bytes:
            return None
        return 2 * self.copied_bytes / Spread.of(self.copy_seconds).median

    def against(self, peer: str, *, ours: str) -> dict[str, Any]:
        """What a Row says of a contestant of ours and the peer, by the names of its attributes."""
        return {
            "ours": self.time(ours),
            "peer": self.time(peer),
            "ratio": self.ratio(peer, ours),
            "copy_bytes_per_second": self.copy_bandwidth(),
        }

    def difference(self, name: str, subtracted: str) -> list[float]:
        """Seconds that one contestant takes longer than another in the same round."""
        pairs = zip(self.seconds[name], self.seconds[subtracted], strict=True)
        return [more - less for more, less in pairs]


@dataclass(frozen=True)
class Timer:
    """How to measure.

    Args:
        rounds: Timed rounds.
        warm_up: Rounds before them that are not counted.
        round_seconds: Runs are repeated within a round until it lasts this long; 0 for one run.
        device: Work on a CUDA device is waited for within the timed part.
        ranks: Which processes measure together.
        clock: Gives seconds.
    """

    rounds: int
    warm_up: int = 2
    round_seconds: float = 0.0
    device: str = "cpu"
    ranks: Ranks = field(default_factory=OneRank)
    clock: Callable[[], float] = time.perf_counter

    def compare(
        self,
        contestants: Sequence[Contestant],
        *,
        verify: Callable[[], None],
        copied_bytes: int = 0,
        advance: Callable[[], None] = lambda: None,
    ) -> Measurement:
        """Measures contestants against each other.

        Args:
            contestants: At least one, with different names.
            verify: Called first; raises if a contestant's result is wrong.
            copied_bytes: If not 0, every round ends with all ranks copying their shares of so many
                bytes at the same time.
            advance: Called after every round.

        Raises:
            WrongResultError: With what `verify` says.
        """
        try:
            verify()
        except AssertionError as error:
            raise WrongResultError(str(error)) from error
        gc.collect()
        gc.disable()
        try:
            return self._rounds(contestants, copied_bytes, advance)
        finally:
            gc.enable()

    def _rounds(
        self, contestants: Sequence[Contestant], copied_bytes: int, advance: Callable[[], None]
    ) -> Measurement:
        copy = self._copy(copied_bytes // self.ranks.world_size)
        runs = {contestant: self._runs_per_round(contestant) for contestant in contestants}
        seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
        copy_seconds: list[float] = []
        orders = itertools.cycle(_orders(contestants))
        for number, order in zip(range(-self.warm_up, self.rounds), orders, strict=False):
            elapsed = {one.name: self._round(one, runs[one]) for one in order}
            copy_elapsed = self._round(copy, 1) if copied_bytes else 0.0
            if number >= 0:
                copy_seconds.append(copy_elapsed)
                for name, own in elapsed.items():
                    seconds[name].append(own)
            advance()
        slowest = {name: self.ranks.slowest(own) for name, own in seconds.items()}
        return Measurement(slowest, self.ranks.slowest(copy_seconds), copied_bytes)

    def _copy(self, num_bytes: int) -> Contestant:
        original = torch.ones(num_bytes, dtype=torch.uint8, device=self.device)
        copy = torch.zeros_like(original)
        return Contestant("copy", lambda: copy.copy_(original))

    def _round(self, contestant: Contestant, runs: int) -> float:
        """Seconds per run on this rank."""
        on_gpu = torch.device(self.device).type == "cuda"
        total = 0.0
        for _ in range(runs):
            contestant.prepare()
            self.ranks.barrier()
            if on_gpu:  # whose barrier only the stream waits for
                torch.cuda.synchronize(self.device)
            start = self.clock()
            contestant.run()
            if on_gpu:
                torch.cuda.synchronize(self.device)
            total += self.clock() - start
        return total / runs

    def _runs_per_round(self, contestant: Contestant) -> int:
        """The same on all ranks."""
        if self.round_seconds <= 0:
            return 1
        runs = 1
        while True:
            lasted = runs * self.ranks.slowest([self._round(contestant, runs)])[0]
            if lasted >= self.round_seconds:
                return runs
            missing = math.ceil(runs * self.round_seconds / max(lasted, 1e-9))
            runs = min(10 * runs, max(2 * runs, missing))


def _orders(contestants: Sequence[Contestant]) -> list[tuple[Contestant, ...]]:
    """Rotations of the contestants and those backwards: for two or three these are all orders."""
    given = tuple(contestants)
    rotations = [given[first:] + given[:first] for first in range(len(given))]
    return list(dict.fromkeys([*rotations, *(one[::-1] for one in reversed(rotations))]))
