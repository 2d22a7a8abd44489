"""A rank of another host that dies, leaves, disagrees or is silent is named on all ranks."""

from __future__ import annotations

import os
import random
import time

import pytest
import torch

import pyparallel
from host_inputs import hosts
from pyparallel.comm.hierarchical import between
from pyparallel.errors import (
    CollectiveMismatchError,
    CollectiveTimeoutError,
    PeerFailedError,
    PeerLostError,
)
from ranks import Job, errors_of_ranks, meet, run_ranks, tell_test


def work_forever(count: int, messages: bool) -> None:
    communicator = pyparallel.init().communicator
    rank, world = communicator.rank, communicator.world_size
    tensor = torch.ones(count)
    tell_test("ready")
    while True:
        if messages:
            works = [communicator.recv(torch.empty(count), (rank - 1) % world)]
            works.append(communicator.send(tensor, (rank + 1) % world))
            for work in works:
                work.wait()
        else:
            communicator.all_reduce(tensor, "max").wait()


@pytest.mark.parametrize("layout", ["aabb", "aba", "aaab", "abc"])
def test_a_killed_rank_is_named_on_all_hosts_within_two_seconds(layout: str, seed: int) -> None:
    choose = random.Random(seed)
    count, messages = choose.choice([1, 5001, 1_000_001]), choose.random() < 0.5
    victim = choose.randrange(len(layout))
    with Job(len(layout), work_forever, count, messages, environment=hosts(layout)) as job:
        for rank in range(len(layout)):
            job.receive(rank)
        time.sleep(choose.random() * 0.3)
        killed = job.kill(victim)
        outcomes = job.outcomes()
    for outcome in outcomes:
        if outcome.rank == victim:
            continue
        assert isinstance(outcome.error, PeerLostError), (count, messages, outcome.error)
        assert outcome.error.rank == victim, outcome.error
        assert f"rank {victim} (process" in str(outcome.error)
        assert outcome.ended_ns - killed < 2_000_000_000


def abort_in_the_middle(offender: int) -> float:
    """The others are in different operations, or in none at all when it happens."""
    communicator = pyparallel.init().communicator
    rank = communicator.rank
    meet("joined")
    if rank == offender:
        time.sleep(0.3)
        communicator.abort("the loss is not finite")
        communicator.abort("again")
        start = time.monotonic()
        with pytest.raises(PeerFailedError, match="the loss is not finite"):
            communicator.all_reduce(torch.ones(3)).wait()
        return start
    calls = [
        lambda: communicator.all_reduce(torch.ones(30_000)).wait(),
        lambda: communicator.recv(torch.ones(3), offender).wait(),
        lambda: communicator.barrier().wait(),
        lambda: time.sleep(1.0) or communicator.barrier().wait(),
    ]
    with pytest.raises(PeerFailedError) as caught:
        calls[rank]()
    assert caught.value.rank == offender
    assert caught.value.cause == "the loss is not finite"
    assert f"rank {offender} (process" in str(caught.value)
    assert "the loss is not finite" in str(caught.value)
    return time.monotonic()


@pytest.mark.parametrize("layout", ["aabb", "abc"])
def test_an_abort_reaches_all_hosts_with_its_cause(layout: str, seed: int) -> None:
    offender = random.Random(seed).randrange(len(layout))
    ended = run_ranks(len(layout), abort_in_the_middle, offender, environment=hosts(layout))
    for rank in range(min(3, len(layout))):
        assert ended[rank] - ended[offender] < 2.0


def leave_early(raises: bool) -> None:
    context = pyparallel.init()
    context.communicator.all_reduce(torch.ones(10)).wait()
    if context.rank == 1:
        if raises:
            raise KeyError("a mistake of rank 1")
        return
    context.communicator.all_reduce(torch.ones(10_000)).wait()


@pytest.mark.parametrize("layout", ["aabb", "ab"])
@pytest.mark.parametrize("raises", [False, True])
def test_a_rank_that_leaves_or_raises_is_named_at_once(layout: str, raises: bool) -> None:
    with Job(len(layout), leave_early, raises, environment=hosts(layout)) as job:
        outcomes = job.outcomes()
    for outcome in outcomes:
        if outcome.rank == 1:
            continue
        assert isinstance(outcome.error, PeerLostError), outcome.error
        assert outcome.error.rank == 1
        assert "left" in str(outcome.error)
        assert outcome.ended_ns - outcomes[1].ended_ns < 10_000_000_000


def all_is_well_if_one_is_faster() -> None:
    """Rank 0 closes while others are still in the last operation: nothing is lost by that."""
    context = pyparallel.init()
    tensor = torch.ones(200_001)
    for _ in range(3):
        context.communicator.all_reduce(tensor, "max").wait()
    if context.rank != 0:
        time.sleep(0.2)
    context.communicator.broadcast(tensor, 0).wait()
    context.close()
    context.close()
    with pytest.raises(ValueError, match="closed"):
        context.communicator.barrier()


@pytest.mark.parametrize("layout", ["aabb", "abc"])
def test_closing_after_the_last_operation_disturbs_nobody(layout: str) -> None:
    run_ranks(len(layout), all_is_well_if_one_is_faster, environment=hosts(layout))


def disagree(how: str) -> None:
    communicator = pyparallel.init().communicator
    first_host = os.environ["PYPARALLEL_HOST"] == "a"
    tensor = torch.ones(10 if how != "size" or first_host else 11)
    if how == "dtype" and not first_host:
        tensor = tensor.double()
    if how == "operation" and not first_host:
        communicator.broadcast(tensor, 0).wait()
    else:
        communicator.all_reduce(tensor).wait()


@pytest.mark.parametrize("layout", ["ab", "aab"])
@pytest.mark.parametrize("how", ["size", "dtype", "operation"])
def test_hosts_that_disagree_learn_what_both_called(layout: str, how: str) -> None:
    errors = errors_of_ranks(len(layout), disagree, how, environment=hosts(layout))
    other = {
        "size": "all_reduce(11 x float32, sum)",
        "dtype": "all_reduce(10 x float64, sum)",
        "operation": "broadcast(10 x float32, root 0)",
    }[how]
    assert any(isinstance(error, CollectiveMismatchError) for error in errors)
    for error in errors:
        assert isinstance(error, CollectiveMismatchError | PeerFailedError), error
        assert "called all_reduce(10 x float32, sum)" in str(error)
        assert f"called {other}" in str(error)


def wait_in_vain() -> None:
    meet("started")
    context = pyparallel.init(timeout_seconds=2)
    try:
        if context.rank == 0:
            context.communicator.all_reduce(torch.ones(10)).wait()
    finally:
        meet("over")


def test_a_silent_rank_is_named_at_the_deadline() -> None:
    (error, _) = errors_of_ranks(2, wait_in_vain, environment=hosts("ab"))
    assert isinstance(error, CollectiveTimeoutError)
    assert "waited 2 s for rank 1 (process" in str(error)
    assert "on host b) in all_reduce()" in str(error)


def stop_before_joining() -> None:
    if os.environ["RANK"] == "1":

        def tell_and_sleep(*_: object) -> None:
            tell_test("about to join")
            time.sleep(60)

        between.Between.connect = tell_and_sleep  # type: ignore[method-assign]
    else:
        tell_test("joining")
    pyparallel.init()


def test_a_rank_killed_before_it_joins_is_named_within_two_seconds() -> None:
    with Job(3, stop_before_joining, environment=hosts("abb")) as job:
        for rank in range(3):
            job.receive(rank)
        killed = job.kill(1)
        outcomes = job.outcomes()
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome.error, PeerLostError), outcome.error
        assert outcome.error.rank == 1
        assert outcome.ended_ns - killed < 2_000_000_000


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
            communicator.close()
            os.write(writer, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    communicator.barrier().wait()  # the child's end has not closed the parent's communicator
    return os.read(reader, 1000).decode()


def test_a_forked_child_is_refused_and_leaves_its_parent_alone() -> None:
    for message in run_ranks(2, use_in_child, environment=hosts("ab")):
        assert "a forked child" in message
        assert "cannot use it" in message


def background_at_exit() -> float:
    context = pyparallel.init()
    meet("joined")
    if context.rank == 0:
        context.communicator.all_reduce(torch.ones(1_000_000))
        context.communicator.recv(torch.ones(3), 1)
        context.communicator.recv(torch.ones(3), None)
    meet("submitted")
    return time.monotonic()


def test_leaving_with_work_in_flight_does_not_hang() -> None:
    leaving = run_ranks(2, background_at_exit, environment=hosts("ab"))
    assert time.monotonic() - max(leaving) < 15
