"""Spans: what ran from when to when, in a bounded ring, with running totals by name."""

from __future__ import annotations

from dataclasses import dataclass
from threading import get_ident


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of work.

    Attributes:
        name: what ran ("pack", "reduce", "wait", "optimizer", ...).
        start_ns: begin, on the clock of time.monotonic_ns().
        end_ns: end, likewise.
    """

    name: str
    start_ns: int
    end_ns: int


class SpanRing:
    """Keeps the latest spans and the seconds spent per name since the last reset. Any thread.

    Without a lock, which a finalizer that records could wait for in vain: every step that threads
    share is one operation of a list or dictionary, atomic with and without a GIL. (A deque's copy
    is not without one.)
    """

    def __init__(self, *, capacity: int = 65536) -> None:
        """Makes an empty ring.

        Args:
            capacity: how many spans are kept; older ones are dropped, the totals still count them.

        Raises:
            ValueError: a capacity below 1.
        """
        if capacity < 1:
            raise ValueError(f"capacity: {capacity} spans are fewer than 1")
        self._capacity = capacity
        self._spans: list[Span] = []  # up to twice as many, cut back now and then
        self._totals_ns: dict[tuple[int, str], int] = {}  # by thread: each adds to its own

    def record(self, name: str, start_ns: int, end_ns: int) -> None:
        """Adds a span (nanoseconds of time.monotonic_ns())."""
        spans = self._spans
        spans.append(Span(name, start_ns, end_ns))
        if len(spans) >= 2 * self._capacity:
            del spans[: -self._capacity]
        totals, key = self._totals_ns, (get_ident(), name)
        totals[key] = totals.get(key, 0) + end_ns - start_ns

    def totals(self) -> dict[str, float]:
        """Seconds per name since the last reset."""
        totals: dict[str, int] = {}
        for (_, name), total in self._totals_ns.copy().items():
            totals[name] = totals.get(name, 0) + total
        return {name: total * 1e-9 for name, total in totals.items()}

    def spans(self) -> list[Span]:
        """The spans still in the ring, oldest first."""
        return self._spans[-self._capacity :]

    def reset(self) -> None:
        """Forgets spans and totals."""
        self._spans = []
        self._totals_ns = {}


SPANS = SpanRing()
"""The ring of this process: optimizers, wrappers and communicators record here."""
