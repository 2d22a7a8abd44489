"""Spans: what ran from when to when, in a bounded ring, with running totals by name."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


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
    """Keeps the latest spans and the seconds spent per name since the last reset."""

    def __init__(self, *, capacity: int = 65536) -> None:
        """Makes an empty ring.

        Args:
            capacity: how many spans are kept; older ones are dropped, the totals still count them.
        """
        self._spans: deque[Span] = deque(maxlen=capacity)
        self._totals_ns: dict[str, int] = {}

    def record(self, name: str, start_ns: int, end_ns: int) -> None:
        """Adds a span (nanoseconds of time.monotonic_ns())."""
        self._spans.append(Span(name, start_ns, end_ns))
        self._totals_ns[name] = self._totals_ns.get(name, 0) + end_ns - start_ns

    def totals(self) -> dict[str, float]:
        """Seconds per name since the last reset."""
        return {name: total * 1e-9 for name, total in self._totals_ns.items()}

    def spans(self) -> list[Span]:
        """The spans still in the ring, oldest first."""
        return list(self._spans)

    def reset(self) -> None:
        """Forgets spans and totals."""
        self._spans.clear()
        self._totals_ns.clear()


SPANS = SpanRing()
"""The ring of this process: optimizers, wrappers and communicators record here."""
