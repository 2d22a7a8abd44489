"""SpanRing: totals count every span, the ring keeps the latest."""

import pytest

from pyparallel.monitor import Span, SpanRing


def test_totals_count_all_and_the_ring_keeps_the_latest() -> None:
    ring = SpanRing(capacity=3)
    for number in range(5):
        ring.record("even" if number % 2 == 0 else "odd", number, number + 10)
    assert ring.totals() == {"even": pytest.approx(30e-9), "odd": pytest.approx(20e-9)}
    assert ring.spans() == [Span("even", 2, 12), Span("odd", 3, 13), Span("even", 4, 14)]
    ring.reset()
    assert ring.totals() == {}
    assert ring.spans() == []
