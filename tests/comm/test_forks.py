"""A forked child, a data loader's worker say, neither uses nor harms its parent's communicator."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable

import torch

import pyparallel
from ranks import run_ranks


def in_child(function: Callable[[], object]) -> str:
    """What the function raised in a forked child, or "worked"."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            function()
            os.write(writer, b"worked")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read().decode()


def child_waits() -> None:
    c = pyparallel.init().communicator
    tensor = c.empty(100_000)
    tensor.fill_(c.rank + 1)
    c.barrier().wait()
    work = c.all_reduce(tensor, background=False)
    message = in_child(work.wait)
    assert "ValueError" in message, message
    assert "forked child" in message
    work.wait()
    assert bool((tensor == 3).all()), tensor[0].item()


def test_a_child_cannot_wait_for_its_parents_work() -> None:
    run_ranks(2, child_waits)


def child_allocates() -> None:
    c = pyparallel.init().communicator
    message = in_child(lambda: c.empty(10))
    assert "ValueError" in message, message
    assert "forked child" in message


def test_a_child_cannot_allocate_shared_tensors() -> None:
    run_ranks(2, child_allocates)


def child_frees() -> None:
    c = pyparallel.init().communicator
    tensors = [c.empty(100_000)]
    tensors[0].fill_(c.rank + 1)

    def free() -> None:
        tensors.clear()
        gc.collect()

    assert in_child(free) == "worked"
    c.barrier().wait()
    other = c.empty(100_000)
    other.fill_(100)
    c.all_reduce(tensors[0]).wait()
    assert bool((tensors[0] == 3).all()), tensors[0][0].item()
    assert bool((other == 100).all()), other[0].item()


def test_a_child_that_drops_a_shared_tensor_does_not_free_it_for_its_parent() -> None:
    run_ranks(2, child_frees)


def child_computes() -> None:
    """Forking after a parallel step leaves the child a working thread pool, without our queue."""
    c = pyparallel.init().communicator
    torch.set_num_threads(2)
    param = torch.ones(300_000, requires_grad=True)
    param.grad = torch.ones(300_000)
    optimizer = pyparallel.optim.Adam([param], lr=0.1)
    optimizer.step()
    works = [c.all_reduce(torch.ones(200_000)) for _ in range(3)]

    def step() -> None:
        torch.set_num_threads(1)
        optimizer.step()

    assert in_child(step) == "worked"
    for work in works:
        work.wait()


def test_a_child_can_still_step_its_own_copy() -> None:
    run_ranks(2, child_computes)


def child_communicates() -> None:
    """Each call by name, on a communicator whose message thread has run in the parent."""
    c = pyparallel.init().communicator
    other = 1 - c.rank
    early = c.recv(torch.zeros(200_000), other, tag=1)
    sent = c.send(torch.ones(200_000), other, tag=1)
    calls: list[Callable[[], object]] = [
        lambda: c.send(torch.ones(3), other),
        lambda: c.send(torch.ones(300_000), other),
        lambda: c.recv(torch.ones(3), other),
        lambda: c.recv(torch.ones(3), None),
        lambda: c.split(0),
        lambda: c.abort("of a child"),
        lambda: c.flight_record(),
        early.wait,
    ]
    for call in calls:
        message = in_child(call)
        assert "ValueError" in message or (message == "worked" and early.is_completed()), message
        assert "forked child" in message or message == "worked"
    assert in_child(c.close) == "worked"  # closes nothing
    early.wait()
    sent.wait()
    c.barrier().wait()


def test_a_child_cannot_send_receive_split_or_abort() -> None:
    run_ranks(2, child_communicates)


def child_drops() -> None:
    """As at the end of an interpreter: the parent's threads are not there to be joined."""
    c = pyparallel.init().communicator
    parts = [c.split(0)]
    work = parts[0].all_reduce(torch.ones(200_000))  # starts the progress thread
    early = parts[0].recv(torch.zeros(200_000), 1 - c.rank)  # and the messages'
    work.wait()

    def drop() -> None:
        nonlocal work, early
        signal.alarm(30)
        del work, early
        parts.clear()
        gc.collect()

    assert in_child(drop) == "worked"
    sent = parts[0].send(torch.ones(200_000), 1 - c.rank)
    early.wait()
    sent.wait()


def test_a_child_may_drop_its_parents_communicator() -> None:
    run_ranks(2, child_drops)
