"""GroupWork: what is still to be done is done once, when the operation is through."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from pyparallel.comm._group_work import GroupWork


class FakeWork:
    """An operation that completes, or fails, when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done = False
        self.error = error

    def wait(self) -> bool:
        self.done = True
        if self.error:
            raise self.error
        return True

    def is_completed(self) -> bool:
        return self.done

    def is_success(self) -> bool:
        return self.error is None

    def exception(self) -> Exception | None:
        return self.error


def test_the_result_is_finished_once_and_then_let_go() -> None:
    tensor = torch.ones(3)
    reference = weakref.ref(tensor)
    work = GroupWork(FakeWork(), (tensor,), lambda: count.append(1))  # type: ignore[arg-type]
    count: list[int] = []
    del tensor
    gc.collect()
    assert reference() is not None  # the operation still writes there
    assert not work.is_completed()
    assert work.ended_ns == 0
    work.wait()
    work.wait()
    assert count == [1]
    assert work.is_completed()
    assert reference() is None
    assert work.started_ns <= work.ended_ns


def test_a_failure_is_raised_and_finishes_nothing() -> None:
    error = RuntimeError("connection closed")
    work = GroupWork(FakeWork(error), (), lambda: pytest.fail("finished"))  # type: ignore[arg-type]
    assert work.exception() is None
    with pytest.raises(RuntimeError, match="connection closed"):
        work.wait()
    assert work.exception() is error
    assert work.ended_ns == 0
