"""StagedWork: one order on all ranks whatever is completed when; an error belongs to its work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyparallel.comm.compression.staged import StagedWork, StageQueue


class Recorded:
    """A collective that says when it is waited for."""

    def __init__(self, name: str, log: list[str], *, fails: bool = False) -> None:
        log.append(f"issue {name}")
        self.name, self.log, self.fails = name, log, fails
        self.started_ns, self.ended_ns = len(log), len(log) + 1

    def wait(self) -> None:
        self.log.append(f"wait {self.name}")
        if self.fails:
            raise OSError(self.name)

    def is_completed(self) -> bool:
        return True  # nobody may ask

    def exception(self) -> None:
        return None


def stages(name: str, count: int, log: list[str], *, fails_at: int = -1) -> Iterator[Recorded]:
    for stage in range(count):
        yield Recorded(f"{name}{stage}", log, fails=stage == fails_at)
    log.append(f"end {name}")


def test_later_stages_of_all_works_run_side_by_side_in_the_order_of_issue() -> None:
    log: list[str] = []
    queue = StageQueue()
    works = [queue.start(stages(name, count, log)) for name, count in (("a", 2), ("b", 3))]
    assert log == ["issue a0", "issue b0"]
    assert not works[0].is_completed()
    assert works[0].ended_ns == 0
    works[0].wait()
    assert log[2:] == [
        "wait a0",
        "issue a1",
        "wait b0",
        "issue b1",
        "wait a1",
        "end a",
        "wait b1",
        "issue b2",
    ]
    assert works[0].is_completed()
    assert not works[1].is_completed()
    works.append(queue.start(stages("c", 1, log)))
    works[1].wait()
    assert log[10:] == ["issue c0", "wait b2", "end b", "wait c0", "end c"]
    works[2].wait()
    assert len(log) == 15
    assert [work.started_ns for work in works] == [1, 2, 11]
    assert works[0].ended_ns == 5


def test_an_error_is_raised_by_every_wait_for_its_work_and_no_other() -> None:
    log: list[str] = []
    queue = StageQueue()
    sound = queue.start(stages("a", 3, log))
    broken = queue.start(stages("b", 3, log, fails_at=1))
    sound.wait()
    assert broken.is_completed()
    assert str(broken.exception()) == "b1"
    for _ in range(2):
        with pytest.raises(OSError, match="b1"):
            broken.wait()
    assert sound.exception() is None
    sound.wait()


def test_an_error_of_the_first_stage_is_raised_at_once() -> None:
    def refused() -> Iterator[Recorded]:
        raise ValueError("no")
        yield

    queue = StageQueue()
    with pytest.raises(ValueError, match="no"):
        queue.start(refused())
    queue.finish()


def test_an_interrupted_stage_is_no_completed_one() -> None:
    log: list[str] = []

    def interrupted() -> Iterator[Recorded]:
        yield Recorded("a", log)
        raise KeyboardInterrupt

    work: StagedWork = StageQueue().start(interrupted())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            work.wait()
