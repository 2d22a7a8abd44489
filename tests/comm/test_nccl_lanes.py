"""Lanes: messages keep their order from before to after the other rank has come."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from pyparallel.comm._nccl_lanes import Lane, Message
from pyparallel.errors import CollectiveTimeoutError, PeerLostError

CPU = torch.device("cpu")


class Done:
    """A work that has ended."""

    started_ns, ended_ns = 5, 6

    def wait(self) -> None: ...

    def is_completed(self) -> bool:
        return True

    def exception(self) -> None:
        return None


def test_messages_are_issued_in_order_whenever_the_lane_opens() -> None:
    opened, order = threading.Event(), []

    def join() -> Any:
        opened.wait(10)
        return "communicator"

    def issue(number: int) -> Any:
        def issue(communicator: Any, stream: int) -> Any:
            assert communicator == "communicator"
            order.append(number)
            return Done()

        return issue

    lane = Lane(join, CPU)
    messages = [Message(0, 10) for _ in range(6)]
    for number in range(3):
        lane.submit(messages[number], issue(number))
    assert order == []
    assert (messages[0].started_ns, messages[0].is_completed()) == (0, False)
    opened.set()
    for number in range(3, 6):
        lane.submit(messages[number], issue(number))
    for message in messages:
        message.wait()
        assert message.is_completed()
        assert (message.started_ns, message.ended_ns) == (5, 6)
        assert message.exception() is None
    assert order == list(range(6))


def test_a_lane_that_does_not_open_fails_all_its_messages() -> None:
    def join() -> Any:
        raise PeerLostError("rank 1 died", 1)

    lane, messages = Lane(join, CPU), [Message(0, 10), Message(0, 10)]
    lane.submit(messages[0], lambda *_: pytest.fail("issued"))
    with pytest.raises(PeerLostError):
        messages[0].wait()
    assert isinstance(messages[0].exception(), PeerLostError)
    with pytest.raises(PeerLostError):
        lane.submit(messages[1], lambda *_: pytest.fail("issued"))


def test_waiting_has_a_deadline() -> None:
    with pytest.raises(CollectiveTimeoutError, match=r"first message in 0\.01 s"):
        Message(0, 0.01).wait()


def test_the_error_of_a_deadline_is_shown_before_it_is_raised() -> None:
    shown: list[CollectiveTimeoutError] = []
    with pytest.raises(CollectiveTimeoutError) as caught:
        Message(0, 0.01, shown.append).wait()
    assert shown == [caught.value]
