"""CollectiveWork: results are there when it says so, and errors arrive where somebody waits."""

from __future__ import annotations

import gc
import re
import threading
import time
import weakref
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pyparallel.comm.backend.completer import Completer
from pyparallel.comm.backend.works import DONE, CollectiveWork
from pyparallel.errors import CollectiveTimeoutError, PeerLostError
from torch_job import run_torch_job, scattered


class Part:
    """A work of a communicator that ends when the test says so."""

    started_ns = ended_ns = 0

    def __init__(self, error: Exception | None = None) -> None:
        self.ended = threading.Event()
        self.error = error
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1
        self.ended.wait()
        if self.error is not None:
            raise self.error

    def is_completed(self) -> bool:
        return self.ended.is_set()

    def exception(self) -> BaseException | None:
        return self.error


def lost() -> PeerLostError:
    return PeerLostError("rank 2 (process 7) died in all_reduce", 2)


def test_results_are_copied_before_the_work_is_completed_or_its_future_is() -> None:
    for look in ("wait", "poll", "future", "result"):
        part, copied = Part(), []
        completer = Completer()
        work = CollectiveWork("x", [part], ["out"], lambda: copied.append(1), completer=completer)  # noqa: B023
        future = work.get_future()
        assert not work.is_completed()
        assert not work.is_success()
        assert work.exception() is None
        assert not future.done()
        assert copied == []
        with pytest.raises(RuntimeError, match=r"x is not completed: wait\(\) comes before"):
            work.result()
        part.ended.set()
        if look == "wait":
            work.wait()
        elif look == "poll":
            assert work.is_completed()
        elif look == "future":
            assert future.wait() == ["out"]
        else:
            assert work.result() == ["out"]
        assert copied == [1], look
        assert future.wait() == ["out"]
        assert work.get_future().wait() == ["out"]
        assert copied == [1]
        completer.stop()


def test_an_error_keeps_its_type_in_wait_and_its_text_in_the_future() -> None:
    part = Part(lost())
    part.ended.set()
    work = CollectiveWork("all_reduce", [part], [], lambda: pytest.fail("nothing to copy"))
    future = work.get_future()
    for _ in range(2):
        with pytest.raises(PeerLostError, match="rank 2") as caught:
            work.wait()
        assert caught.value.rank == 2
    assert work.is_completed()
    assert not work.is_success()
    assert isinstance(work.exception(), PeerLostError)
    with pytest.raises(RuntimeError, match=re.escape("rank 2 (process 7) died in all_reduce")):
        future.wait()
    # A callback in C++ sees an error too, not the exception as a value.
    after = future.then(lambda done: done.value())
    with pytest.raises(RuntimeError, match="rank 2"):
        after.wait()


def test_a_deadline_leaves_the_work_in_flight() -> None:
    part = Part()
    work = CollectiveWork("all_gather", [part], [])
    with pytest.raises(CollectiveTimeoutError, match=r"all_gather was waited for 0.02 s"):
        work.wait(timedelta(milliseconds=20))
    own = CollectiveWork("all_gather", [part], [], seconds=0.02)
    with pytest.raises(CollectiveTimeoutError):
        own.wait()
    part.ended.set()
    assert work.wait(timedelta(seconds=30))
    assert own.wait()
    assert CollectiveWork("all_gather", [part], []).wait(timedelta.max)


def test_polling_sees_to_the_progress_of_what_would_wait_for_a_waiter() -> None:
    part = Part()
    completer = Completer()
    work = CollectiveWork("x", [part], [], completer=completer, background=False)
    assert part.waits == 0
    assert not work.is_completed()
    deadline = time.monotonic() + 30
    while part.waits == 0:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    part.ended.set()
    completer.stop()


def test_many_threads_settle_once() -> None:
    part, copies = Part(), []
    work = CollectiveWork("x", [part], [], lambda: copies.append(1))
    threads = [threading.Thread(target=work.wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    part.ended.set()
    for thread in threads:
        thread.join()
    assert copies == [1]
    assert part.waits == 1


def test_what_is_done_is_done() -> None:
    assert DONE.wait()
    assert DONE.is_success()
    assert DONE.get_future().wait() == ()


def held_and_freed() -> None:
    rank = dist.get_rank()
    group: Any = dist.group.WORLD
    # Dropped works and tensors: the operation still ends right, then nothing is held.
    tensor = torch.full((200_000,), 1.0)
    view = tensor[:]
    seen = weakref.ref(tensor)
    for _ in range(20):
        group.allreduce([torch.ones(300_000)])
    group.allreduce([tensor])
    del tensor
    gc.collect()
    dist.barrier()
    assert bool((view == dist.get_world_size()).all())
    del view
    work = group.allreduce([torch.ones(1)])
    work.wait()
    del work
    gc.collect()
    assert seen() is None
    # A dropped work with a result to copy: it is there after a later operation.
    spread = scattered(torch.full((50_000,), float(rank + 1)))
    group.allreduce([spread])
    dist.barrier()
    assert spread[0].item() == sum(range(1, dist.get_world_size() + 1))
    dist.barrier()
    assert len(group._with_results_to_copy) == 0


@pytest.mark.parametrize("world_size", [2, 3])
def test_tensors_are_held_until_the_work_is_through_and_no_longer(world_size: int) -> None:
    run_torch_job(world_size, held_and_freed)


def many_futures(seed: int) -> None:
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed)).tolist()
    tensors = [torch.full((1 + 5000 * i,), 1.0) for i in range(30)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    total: list[float] = []
    futures = []
    for i in order:
        work = works[i]
        assert work is not None
        chained = work.get_future().then(lambda done: total.append(done.value()[0][0].item()))
        futures.append(chained)
    torch.futures.wait_all(futures)
    assert total == [dist.get_world_size()] * 30
    names = [thread.name for thread in threading.enumerate()]
    assert names.count("pyparallel-completer") == 1


def test_one_thread_completes_all_futures(seed: int) -> None:
    run_torch_job(2, many_futures, seed)
