"""What goes wrong is named on every rank and soon: death, leaving, silence, signals, forks."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pyparallel
from pyparallel._native import core
from pyparallel.comm import rendezvous
from pyparallel.errors import CollectiveTimeoutError, PeerLostError
from ranks import Job, errors_of_ranks, meet, run_ranks, tell_test


def reduce_forever(count: int, shared: bool) -> None:
    communicator = pyparallel.init().communicator
    tensor = communicator.empty(count) if shared else torch.ones(count)
    tensor.fill_(1)
    tell_test("ready")
    while True:
        communicator.all_reduce(tensor, "max", background=count % 2 == 0).wait()


@pytest.mark.parametrize("turn", range(6))
def test_a_killed_rank_is_named_on_all_others_within_two_seconds(turn: int, seed: int) -> None:
    choose = random.Random(seed)
    count = choose.choice([10, 5001, 100_000, 1_000_001])
    victim = choose.randrange(3)
    with Job(3, reduce_forever, count, choose.random() < 0.5) as job:
        for rank in range(3):
            job.receive(rank)
        time.sleep(choose.random() * 0.3)
        killed = job.kill(victim)
        outcomes = job.outcomes()
    for outcome in outcomes:
        if outcome.rank == victim:
            assert outcome.error is None
            continue
        assert isinstance(outcome.error, PeerLostError), (count, outcome.error)
        assert outcome.error.rank == victim
        assert f"rank {victim} (process" in str(outcome.error)
        assert outcome.ended_ns - killed < 2_000_000_000


def test_shared_memory_has_no_name_in_the_file_system() -> None:
    with Job(2, reduce_forever, 100_000, True) as job:
        job.receive(0)
        job.receive(1)
        for process in job._processes:
            mapped = Path(f"/proc/{process.pid}/maps").read_text()
            assert "/memfd:pyparallel" in mapped
            assert "/dev/shm/" not in mapped


def leave_early() -> None:
    context = pyparallel.init()
    meet("joined")
    if context.rank == 1:
        return
    context.communicator.all_reduce(torch.ones(10)).wait()


def raise_early() -> None:
    context = pyparallel.init()
    meet("joined")
    if context.rank == 1:
        raise KeyError("a mistake of rank 1")
    context.communicator.all_reduce(torch.ones(100_000)).wait()


@pytest.mark.parametrize("function", [leave_early, raise_early])
def test_a_rank_that_leaves_or_raises_is_named_at_once(function: object) -> None:
    with Job(3, function) as job:  # type: ignore[arg-type]
        outcomes = job.outcomes()
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome.error, PeerLostError)
        assert outcome.error.rank == 1
        assert "left" in str(outcome.error)
        assert outcome.ended_ns - outcomes[1].ended_ns < 10_000_000_000


def never_join() -> None:
    """Rank 1 has said who it is and is stopped before it comes to the others."""
    if os.environ["RANK"] == "1":
        rendezvous.core = SimpleNamespace(Segment=core.Segment, ShmCommunicator=tell_and_sleep)  # type: ignore[attr-defined]
    else:
        tell_test("joining")
    pyparallel.init()


def tell_and_sleep(*_: object) -> None:
    tell_test("about to join")
    time.sleep(60)


def test_a_rank_killed_before_it_joins_is_named_within_two_seconds() -> None:
    with Job(3, never_join) as job:
        for rank in range(3):
            job.receive(rank)
        killed = job.kill(1)
        outcomes = job.outcomes()
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome.error, PeerLostError)
        assert outcome.error.rank == 1
        assert "init()" in str(outcome.error)
        assert outcome.ended_ns - killed < 2_000_000_000


def wait_in_vain() -> None:
    meet("started")
    context = pyparallel.init(timeout_seconds=2)
    try:
        if context.rank == 0:
            context.communicator.barrier().wait()
    finally:
        meet("over")


def test_a_silent_rank_is_named_at_the_deadline() -> None:
    errors = errors_of_ranks(2, wait_in_vain)
    assert isinstance(errors[0], CollectiveTimeoutError)
    assert "2000 ms for rank 1 in barrier()" in str(errors[0])


def wait_for_interrupt() -> float:
    context = pyparallel.init()
    if context.rank == 1:
        meet("over")
        return 0.0
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tell_test("waiting")
    with pytest.raises(KeyboardInterrupt):
        context.communicator.all_reduce(torch.ones(10)).wait()
    interrupted = time.monotonic()
    with pytest.raises(Exception, match="interrupted"):
        context.communicator.all_reduce(torch.ones(10)).wait()
    meet("over")
    return interrupted


def test_an_interrupt_ends_a_wait_and_the_communicator() -> None:
    with Job(2, wait_for_interrupt) as job:
        job.receive(0)
        time.sleep(0.3)
        sent = job.kill(0, signal.SIGINT) / 1e9
        outcomes = job.outcomes()
    assert outcomes[0].error is None, outcomes[0].error
    assert outcomes[0].value - sent < 1.0


def use_in_child() -> str:
    communicator = pyparallel.init().communicator
    communicator.barrier().wait()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            communicator.all_reduce(torch.ones(3)).wait()
            os.write(writer, b"worked")
        except ValueError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    communicator.barrier().wait()  # the child's end has not closed the parent's communicator
    return os.read(reader, 1000).decode()


def test_a_forked_child_is_refused_and_leaves_its_parent_alone() -> None:
    for message in run_ranks(2, use_in_child):
        assert "a forked child" in message
        assert "cannot use it" in message


def close_and_go_on() -> None:
    context = pyparallel.init()
    tensor = context.communicator.empty(100)
    context.communicator.barrier().wait()
    context.close()
    context.close()
    tensor.fill_(3)  # the memory stays valid
    assert tensor.sum().item() == 300
    with pytest.raises(ValueError, match="closed"):
        context.communicator.all_reduce(tensor)


def test_closing_twice_is_harmless_and_shared_tensors_outlive_it() -> None:
    run_ranks(2, close_and_go_on)


def background_at_exit() -> float:
    context = pyparallel.init()
    meet("joined")
    if context.rank == 0:
        context.communicator.all_reduce(torch.ones(1_000_000), background=True)
    meet("submitted")
    return time.monotonic()


def test_leaving_with_work_in_flight_does_not_hang() -> None:
    leaving = run_ranks(2, background_at_exit)
    assert time.monotonic() - max(leaving) < 15
