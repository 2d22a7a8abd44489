"""SpanRing: totals count every span, the ring keeps the latest."""

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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
    with pytest.raises(ValueError, match="capacity: 0 spans"):
        SpanRing(capacity=0)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads take the GIL from each other wherever they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_threads_record_while_others_read() -> None:
    ring = SpanRing(capacity=50)
    start = threading.Barrier(4)

    def record(number: int) -> None:
        start.wait(60)
        for index in range(2000):
            ring.record("shared", 0, 1)
            ring.record(f"{number} {index % 100}", 0, 1)

    def read() -> None:
        start.wait(60)
        for _ in range(500):
            assert all(total > 0 for total in ring.totals().values())
            assert len(ring.spans()) <= 50

    with ThreadPoolExecutor(4) as threads:
        done = [threads.submit(record, number) for number in range(3)]
        done.append(threads.submit(read))
        for one in done:
            one.result()
    totals = ring.totals()
    assert totals.pop("shared") == pytest.approx(6000e-9)
    assert len(totals) == 300
    assert all(total == pytest.approx(20e-9) for total in totals.values())
