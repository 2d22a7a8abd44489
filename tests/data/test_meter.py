"""The report says what was measured, and what to do about it."""

from __future__ import annotations

import pytest

from pyparallel.data.meter import Meter, Stage
from pyparallel.monitor import SPANS

MS = 1_000_000


def measured(*, wait: int, step: int, read: int, preprocess: int = 0, steps: int = 20):
    """A loop whose first batch takes 100 ms to come."""
    meter, now, since = Meter(), 0, None
    for number in range(steps):
        start = now
        now += (wait if number else 100) * MS
        meter.add_wait(start, now, ready=number % 3, since_ns=since)
        spans = [("read", 0, read * MS, 1000)]
        if preprocess:
            spans.append(("preprocess", 0, preprocess * MS, 4000))
        meter.add_batch(spans)
        since, now = now, now + step * MS
    meter.add_wait(now, now, ready=None, since_ns=since)
    return meter.report()


def test_numbers_are_those_of_the_loop() -> None:
    report = measured(wait=2, step=6, read=8)
    assert report.batches == 20
    assert report.loop_seconds == pytest.approx(0.1 + 19 * 8e-3 + 6e-3)
    assert report.wait_seconds == pytest.approx(0.1 + 19 * 2e-3)
    assert report.median_wait_seconds == pytest.approx(2e-3)
    assert report.fill_seconds == pytest.approx(0.1)
    assert report.wait_share == pytest.approx(38 / 158)
    assert report.mean_queue == pytest.approx(19 / 19)
    assert report.min_queue == 0
    assert report.stages["read"].seconds_per_batch == pytest.approx(8e-3)
    assert report.stages["read"].gigabytes_per_second == pytest.approx(1000 / 8e-3 * 1e-9)


@pytest.mark.parametrize(
    ("numbers", "verdict", "advice"),
    [
        ({"wait": 2, "step": 6, "read": 8}, "input bound", "'read' with 8 ms a batch: read in"),
        (
            {"wait": 2, "step": 6, "read": 3, "preprocess": 8},
            "input bound",
            "'preprocess' with 8 ms a batch: give it more threads",
        ),
        ({"wait": 0, "step": 6, "read": 5}, "compute bound", "keeps up, its slowest part"),
        ({"wait": 0, "step": 6, "read": 5, "steps": 1}, "compute bound", "keeps up"),
    ],
)
def test_the_verdict_and_what_to_do(numbers, verdict, advice) -> None:
    report = measured(**numbers)
    assert report.verdict == verdict
    assert advice in report.advice
    assert verdict in str(report)
    assert report.advice in str(report)


def test_nothing_measured_is_no_verdict() -> None:
    meter = Meter()
    assert meter.report().verdict == "not measured"
    assert "no step has run" in str(meter.report())
    meter.add_wait(0, 5, ready=0, since_ns=None)
    meter.add_batch([("read", 0, 4, 1)])
    assert meter.report().verdict == "not measured"


def test_copies_of_the_device_are_a_stage() -> None:
    meter = Meter()
    assert meter.report(copied=Stage()).stages == {}
    report = meter.report(copied=Stage(2, 0.5, 10**9))
    assert report.stages["copy"].gigabytes_per_second == pytest.approx(2.0)
    assert "copy" in str(report)


def test_spans_go_to_the_monitor() -> None:
    before = SPANS.totals()
    measured(wait=2, step=6, read=8)
    after = SPANS.totals()
    spent = {name: after[name] - before.get(name, 0.0) for name in ("data wait", "data read")}
    assert spent == {"data wait": pytest.approx(0.138), "data read": pytest.approx(0.16)}
