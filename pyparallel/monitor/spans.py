"""Spans: what ran from when to when, in a bounded ring, with running totals by name."""

from __future__ import annotations

from collections import deque
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
    share is one call of a list or dictionary, which is atomic with and without a GIL.
    """

    def __init__(self, *, capacity: int = 65536) -> None:
        """Makes an empty ring.

        Args:
            capacity: how many spans are kept; older ones are dropped, the totals still count them.
        """
        self._spans: deque[Span] = deque(maxlen=capacity)
        self._totals_ns: dict[tuple[int, str], int] = {}  # by thread: each adds to its own

    def record(self, name: str, start_ns: int, end_ns: int) -> None:
        """Adds a span (nanoseconds of time.monotonic_ns())."""
        self._spans.append(Span(name, start_ns, end_ns))
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
        return list(self._spans.copy())

    def reset(self) -> None:
        """Forgets spans and totals."""
        self._spans.clear()
        self._totals_ns = {}


SPANS = SpanRing()
"""The ring of this process: optimizers, wrappers and communicators record here."""
