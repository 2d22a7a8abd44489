"""The flight log: the last operations in order, read from works that keep no tensor alive."""

from __future__ import annotations

import os
import random
import threading
import time

from pyparallel.comm._flight_log import REMEMBERED, FlightLog
from pyparallel.errors import CudaError


class Work:
    """As far as it is told to be."""

    description = "all_reduce(5 x float32)"

    def __init__(self, *, started: int = 0, ended: int = 0, failed: bool = False) -> None:
        self.started_ns, self.ended_ns, self.failed = started, ended, failed
        self.completed = ended > 0


class BrokenWork:
    """Of a device that is of no use any more."""

    started_ns = ended_ns = 0
    completed = failed = property(lambda self: self.fail())

    def fail(self) -> bool:
        raise CudaError("cudaEventQuery: an illegal memory access", 700)


def test_a_log_without_operations_is_empty() -> None:
    assert FlightLog().read()["operations"] == []
    assert FlightLog().read()["process"] == os.getpid()


def test_the_last_operations_are_kept_in_order(seed: int) -> None:
    log, count = FlightLog(), random.Random(seed).randint(REMEMBERED, 3 * REMEMBERED)
    for number in range(count):
        if number % 3:
            log.call("barrier")
        else:
            log.message("send", 1, 7)
    operations = log.read()["operations"]
    numbers = [operation["number"] for operation in operations]
    assert numbers == list(range(count - REMEMBERED + 1, count + 1))
    tags = [one["tag"] for one in operations if one["kind"] == "barrier"]
    assert tags == list(range(tags[0], tags[0] + len(tags)))
    assert tags[-1] == sum(1 for number in range(count) if number % 3)


def test_an_operation_is_as_far_as_its_work() -> None:
    log = FlightLog()
    before = time.monotonic_ns()
    flights = [log.call("all_reduce") for _ in range(7)]
    flights[1].work = Work()
    flights[2].work = Work(started=3)
    flights[3].work = Work(started=3, ended=9)
    flights[4].work = Work(started=3, failed=True)
    flights[5].work = BrokenWork()
    flights[6].failed = True
    operations = log.read()["operations"]
    states = [operation["state"] for operation in operations]
    assert states == [
        "submitted", "submitted", "started", "completed", "failed", "failed", "failed",
    ]  # fmt: skip
    times = [(operation["started_ns"], operation["ended_ns"]) for operation in operations]
    assert times[2:4] == [(3, 0), (3, 9)]
    assert all(before <= one["submitted_ns"] <= time.monotonic_ns() for one in operations)
    assert operations[0]["operation"] == "all_reduce(...) #1"
    assert operations[1]["operation"] == "all_reduce(5 x float32) #2"


def test_reading_disturbs_no_thread_that_adds() -> None:
    log = FlightLog()
    threads = [
        threading.Thread(target=lambda: [log.call("barrier") for _ in range(3000)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        numbers = [operation["number"] for operation in log.read()["operations"]]
        assert len(numbers) <= REMEMBERED
        assert numbers == sorted(set(numbers))
    assert len(log.read()["operations"]) == REMEMBERED
