"""A rank that fails tells its peers which rank, in what and why, whatever they wait for."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

import pyparallel
from pyparallel._native import core
from pyparallel.errors import PeerFailedError
from ranks import errors_of_ranks, meet, run_ranks

WAITS = ("all_reduce", "large", "recv", "send", "barrier", "later")


def wait_for_the_aborted(wait: str) -> float:
    c = pyparallel.init().communicator
    meet("joined")
    if c.rank == 1:
        time.sleep(0.2)
        aborted = time.monotonic()
        c.abort("no more memory for the 7th layer")
        c.abort("twice is harmless")
        with pytest.raises(PeerFailedError, match="has failed: no more memory"):
            c.barrier().wait()
        with pytest.raises(PeerFailedError):
            c.recv(torch.ones(1), 0)
        return aborted
    if wait == "later":
        time.sleep(0.5)
    with pytest.raises(PeerFailedError) as caught:
        {
            "all_reduce": lambda: c.all_reduce(torch.ones(10)),
            "large": lambda: c.all_reduce(torch.ones(500_000), background=False),
            "recv": lambda: c.recv(torch.ones(10), 1),
            "send": lambda: c.send(torch.ones(500_000), 1),
            "barrier": c.barrier,
            "later": c.barrier,
        }[wait]().wait()
    ended = time.monotonic()
    error = caught.value
    assert (error.rank, error.cause) == (1, "no more memory for the 7th layer")
    assert error.operation == ""
    assert "rank 1 (process" in str(error)
    assert f"rank {c.rank} was in" in str(error)
    return ended


@pytest.mark.parametrize("wait", WAITS)
def test_an_abort_reaches_all_who_wait(wait: str) -> None:
    ended = run_ranks(3, wait_for_the_aborted, wait)
    assert max(ended[0], ended[2]) - ended[1] < 2


def abort_at_length() -> str:
    c = pyparallel.init().communicator
    meet("joined")
    if c.rank == 1:
        c.abort("ä" * 2000)
    with pytest.raises(PeerFailedError) as caught:
        c.barrier().wait()
    return caught.value.cause


def test_a_long_cause_is_cut_between_two_characters() -> None:
    assert run_ranks(2, abort_at_length) == ["ä" * 303, "ä" * 2000]


def abort_together() -> int:
    c = pyparallel.init().communicator
    meet("joined")
    if c.rank in (1, 2):
        c.abort(f"rank {c.rank} has had enough")
    try:
        c.all_reduce(torch.ones(10)).wait()
    except PeerFailedError as error:
        return error.rank
    raise AssertionError("no error")


def test_all_survivors_name_the_same_one_of_two() -> None:
    for _ in range(3):
        named = run_ranks(5, abort_together)
        assert named[0] == named[3] == named[4]
        assert named[0] in (1, 2)


def raise_uncaught() -> float:
    """As the interpreter does it: the hook, then the exit functions."""
    c = pyparallel.init().communicator
    meet("joined")
    if c.rank == 1:
        try:
            raise ValueError("bad batch")
        except ValueError:
            sys.excepthook(*sys.exc_info())
        meet("told")
        return time.monotonic()
    with pytest.raises(PeerFailedError) as caught:
        c.all_reduce(torch.ones(10)).wait()
    assert caught.value.rank == 1
    assert caught.value.cause.startswith("ValueError: bad batch (test_abort.py:")
    assert caught.value.cause.endswith("in raise_uncaught)")
    meet("told")
    return time.monotonic()


def test_an_uncaught_exception_is_told() -> None:
    run_ranks(3, raise_uncaught)


def raise_in_the_block(kind: str) -> None:
    with pyparallel.init() as context:
        meet("joined")
        if context.rank == 1:
            if kind == "exit":
                raise SystemExit(3)
            raise {"error": KeyError("lost"), "interrupt": KeyboardInterrupt()}[kind]
        context.communicator.recv(torch.ones(3), 1).wait()


@pytest.mark.parametrize("kind", ["error", "interrupt", "exit"])
def test_a_block_that_raises_aborts(kind: str) -> None:
    errors = errors_of_ranks(2, raise_in_the_block, kind)
    assert isinstance(errors[0], PeerFailedError)
    assert {"error": "KeyError", "interrupt": "KeyboardInterrupt", "exit": "SystemExit: 3"}[
        kind
    ] in errors[0].cause


def leave_the_block() -> bool:
    before = sys.excepthook
    with pyparallel.init() as context:
        context.communicator.barrier().wait()
        during = sys.excepthook
    again = pyparallel.init()
    assert again is not context
    again.communicator.barrier().wait()
    again.close()
    return during is not before and sys.excepthook is before


def test_a_block_that_ends_closes_and_puts_the_hook_back() -> None:
    assert run_ranks(2, leave_the_block) == [True, True]


def fails_alone() -> str:
    """Rank 1 cannot open another file, so it cannot map what rank 0 shares."""
    c = pyparallel.init().communicator
    tensor = c.empty(100_000)
    c.barrier().wait()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if c.rank == 1:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    with pytest.raises(RuntimeError) as caught:
        c.all_reduce(tensor, background=False).wait()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    return f"{type(caught.value).__name__}: {caught.value}"


def test_an_error_of_one_rank_alone_reaches_the_others() -> None:
    told, own = run_ranks(2, fails_alone)
    assert own.startswith("RuntimeError: cannot open the shared memory of process")
    assert told.startswith("PeerFailedError: rank 1 (process")
    assert "failed in all_reduce(100000 x float32, sum) #" in told
    assert "Too many open files" in told


def at_once(*calls: Callable[[], object]) -> list[BaseException | None]:
    """Each in a thread of its own; what they raised."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        start.wait(60)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [one.exception(60) for one in [threads.submit(run, call) for call in calls]]


def test_threads_that_fail_and_close_at_once_do_so_once() -> None:
    for _ in range(10):
        control, processes = core.ShmCommunicator.create_control(2), [os.getpid()] * 2
        ranks = [core.ShmCommunicator(control, rank, processes, 60.0) for rank in (0, 1)]
        assert at_once(ranks[0].join, ranks[1].join) == [None, None]
        told: list[str] = []
        ranks[0].set_on_failure(lambda text, *_, told=told: told.append(text))
        work = ranks[0].barrier(True)
        waits = [partial(ranks[0].wait, work)] * 4
        *errors, aborted = at_once(*waits, partial(ranks[1].abort, "enough"))
        assert [type(error) for error in errors] == [PeerFailedError] * 4
        assert aborted is None
        assert len(told) == 1
        assert at_once(*[ranks[0].close] * 4, ranks[1].close) == [None] * 5
