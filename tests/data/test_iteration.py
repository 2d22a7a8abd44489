"""An iteration's threads: they end with it, however it ends, and keep nothing alive."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator

import pytest
import torch

from leftovers import threads_left
from pyparallel.data import Prefetcher, iteration

WAIT_SECONDS = 60


class Gate:
    """A loader that gives `before` batches and then waits for the test."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.is_reached = threading.Event()
        self.opened = threading.Event()
        self.is_closed = threading.Event()

    def __iter__(self):
        try:
            for value in range(1_000_000):
                if value == self.before:
                    self.is_reached.set()
                    assert self.opened.wait(WAIT_SECONDS)
                yield value
        finally:
            self.is_closed.set()


def endless():
    value = 0
    while True:
        yield value
        value += 1


class Endless:
    def __init__(self) -> None:
        self.is_closed = threading.Event()

    def __iter__(self):
        try:
            yield from endless()
        finally:
            self.is_closed.set()


@pytest.mark.parametrize("depth", [1, 4])
def test_a_break_ends_the_threads_and_closes_the_loader(depth) -> None:
    loader = Endless()
    for value in Prefetcher(loader, depth=depth, preprocess=lambda value: value, workers=depth):
        if value == 3:
            break
    assert threads_left() == []
    assert loader.is_closed.is_set()


def test_an_exception_in_the_loop_ends_the_threads() -> None:
    def loop() -> None:
        for value in Prefetcher(Endless()):
            if value == 3:
                raise KeyError(value)

    with pytest.raises(KeyError):
        loop()
    gc.collect()  # the traceback held the loop's frame
    assert threads_left() == []


def test_the_end_of_the_loader_ends_the_threads_though_the_iterator_is_held() -> None:
    iterator = iter(Prefetcher(range(5), preprocess=str))
    assert list(iterator) == list("01234")
    assert threads_left() == []
    assert list(iterator) == []


def test_a_cycle_of_references_is_collected() -> None:
    prefetcher = Prefetcher(Endless())
    iterator = iter(prefetcher)
    next(iterator)
    prefetcher.held = iterator  # type: ignore[attr-defined]
    iterator.holder = prefetcher  # type: ignore[attr-defined]
    del prefetcher, iterator
    gc.collect()
    assert threads_left() == []


def test_close_ends_whoever_waits() -> None:
    loader = Gate(1)
    prefetcher = Prefetcher(loader)
    iterator = iter(prefetcher)
    assert next(iterator) == 0
    assert loader.is_reached.wait(WAIT_SECONDS)
    said: list[str] = []

    def wait() -> None:
        try:
            next(iterator)
        except ValueError as error:
            said.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    threading.Timer(0.05, loader.opened.set).start()
    prefetcher.close()
    waiting.join(WAIT_SECONDS)
    assert said in ([], ["no more batches of this iteration: its Prefetcher was closed"])
    with pytest.raises(ValueError, match="its Prefetcher was closed"):
        next(iterator)
    assert loader.is_closed.is_set()


def test_a_loader_that_does_not_come_back_is_left_alone_and_said(monkeypatch) -> None:
    monkeypatch.setattr(iteration, "PATIENCE_SECONDS", 0.05)
    loader = Gate(1)
    prefetcher = Prefetcher(loader)
    iterator = iter(prefetcher)
    assert next(iterator) == 0
    assert loader.is_reached.wait(WAIT_SECONDS)
    with pytest.warns(RuntimeWarning, match=r"has not come back for 0\.05 s"):
        prefetcher.close()
    loader.opened.set()
    assert loader.is_closed.wait(WAIT_SECONDS)
    with pytest.raises(ValueError, match="closed"):
        next(iterator)
    for thread in threading.enumerate():
        if thread.name.startswith("pyparallel.data"):
            thread.join(WAIT_SECONDS)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_keyboard_interrupt_ends_the_wait_and_nothing_else() -> None:
    loader = Gate(2)

    iterator = iter(Prefetcher(loader))
    assert [next(iterator), next(iterator)] == [0, 1]

    def interrupt() -> None:
        while not iterator._window._ready._waiters:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(iterator)
    thread.join(WAIT_SECONDS)
    loader.opened.set()
    assert [next(iterator), next(iterator)] == [2, 3]


def test_an_error_carries_the_traceback_of_the_loader() -> None:
    def fails_in_the_loader():
        yield 1
        raise LookupError("the third shard is missing")

    iterator = iter(Prefetcher(fails_in_the_loader()))
    assert next(iterator) == 1
    with pytest.raises(LookupError, match="third shard") as caught:
        next(iterator)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "fails_in_the_loader" in names
    assert list(iterator) == []


def test_an_error_of_preprocessing_comes_after_all_batches_before_it() -> None:
    def fails_at_three(value: int) -> int:
        if value == 3:
            raise ZeroDivisionError(value)
        return -value

    iterator = iter(Prefetcher(range(100), preprocess=fails_at_three, workers=4))
    assert [next(iterator) for _ in range(3)] == [0, -1, -2]
    with pytest.raises(ZeroDivisionError) as caught:
        next(iterator)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert "fails_at_three" in names


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_no_exception_is_lost_in_a_thread(kind) -> None:
    def fail(value: int) -> int:
        raise kind("of a thread")

    for prefetcher in (Prefetcher(map(fail, [1])), Prefetcher([1], preprocess=fail)):
        with pytest.raises(kind, match="of a thread"):
            next(iter(prefetcher))


def test_stop_iteration_of_a_function_is_no_end() -> None:
    with pytest.raises(RuntimeError, match="preprocess raised StopIteration"):
        list(Prefetcher([1, 2], preprocess=lambda value: next(iter([]))))


def test_an_error_does_not_hold_the_loaders_iterator() -> None:
    def fails() -> Iterator[int]:
        raise OSError("no such file")
        yield 1

    source = fails()
    alive = weakref.ref(source)
    prefetcher = Prefetcher(_Once(source))
    del source
    with pytest.raises(OSError, match="no such file") as caught:
        next(iter(prefetcher))
    assert alive() is None
    assert caught.value.__traceback__ is not None


class TracedError(Exception):
    """Can be watched."""


def test_an_error_that_was_handled_is_gone_at_once() -> None:
    def fail(value: int) -> int:
        raise TracedError(value)

    def handled(prefetcher: Prefetcher) -> weakref.ref:
        try:
            next(iter(prefetcher))
        except TracedError as error:
            return weakref.ref(error)

    gc.disable()
    try:
        for prefetcher in (Prefetcher(map(fail, [1])), Prefetcher([1], preprocess=fail)):
            assert handled(prefetcher)() is None, "a cycle holds it, and all its frames"
    finally:
        gc.enable()


@pytest.mark.parametrize("stage", ["read", "preprocess"])
def test_an_error_that_nobody_asked_for_is_gone_with_the_iteration(stage) -> None:
    alive: list[weakref.ref] = []
    is_raised = threading.Event()

    def make() -> TracedError:
        alive.append(weakref.ref(error := TracedError()))
        is_raised.set()
        return error

    def fail(value: int) -> int:
        raise make()

    gc.disable()
    try:
        function = fail if stage == "preprocess" else ()
        prefetcher = Prefetcher([1] if function else map(fail, [1]), preprocess=function)
        iterator = iter(prefetcher)
        assert is_raised.wait(WAIT_SECONDS)
        prefetcher.close()
        assert alive[0]() is None, "a cycle holds it, and all its frames"
        with pytest.raises(ValueError, match="closed"):
            next(iterator)
    finally:
        gc.enable()


def test_a_function_at_work_keeps_its_batch_when_the_iteration_ends() -> None:
    seen: list[int] = []
    is_begun, may_go_on = threading.Event(), threading.Event()

    def first(value: int) -> int:
        is_begun.set()
        assert may_go_on.wait(WAIT_SECONDS)
        return value

    prefetcher = Prefetcher([7], preprocess=[first, seen.append])
    iterator = iter(prefetcher)
    assert is_begun.wait(WAIT_SECONDS)
    iterator._window.stop("by a test")
    may_go_on.set()
    prefetcher.close()
    assert seen == [7]


class _Once:
    """Gives its iterator away."""

    def __init__(self, source) -> None:
        self.source = source

    def __iter__(self):
        source, self.source = self.source, None
        return source


@pytest.mark.parametrize("preprocess", [(), (lambda batch: batch,)], ids=["read", "preprocess"])
def test_no_batch_outlives_its_use(preprocess) -> None:
    alive: list[weakref.ref] = []

    def make(number: int) -> torch.Tensor:
        batch = torch.full((3,), float(number))
        alive.append(weakref.ref(batch))
        return batch

    iterator = iter(Prefetcher(map(make, range(100)), depth=3, preprocess=preprocess))
    for number in range(4):
        batch = next(iterator)
        assert alive[number]() is batch
        del batch
        assert alive[number]() is None, "somebody still holds it"
    iterator.close("enough")


def test_a_new_iteration_ends_the_one_before() -> None:
    prefetcher = Prefetcher(Endless())
    first = iter(prefetcher)
    assert [next(first), next(first)] == [0, 1]
    second = iter(prefetcher)
    assert next(second) == 0
    with pytest.raises(ValueError, match="a new iteration of the same Prefetcher has begun"):
        next(first)
    assert next(second) == 1


def test_several_threads_may_share_an_iteration() -> None:
    iterator, got, ended = iter(Prefetcher(range(200), preprocess=str, workers=3)), [], []

    def consume() -> None:
        got.extend(iterator)
        ended.append(True)

    threads = [threading.Thread(target=consume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sorted(map(int, got)) == list(range(200))
    assert ended == [True] * 4


def test_nested_prefetchers_give_the_same_and_end_together() -> None:
    inner = Prefetcher(Endless(), preprocess=lambda value: value + 1)
    outer = Prefetcher(inner, preprocess=lambda value: value * 2)
    for number, value in enumerate(outer):
        assert value == 2 * (number + 1)
        if number == 5:
            break
    assert threads_left() == []


def test_a_forked_child_is_refused_and_may_begin_anew() -> None:
    prefetcher = Prefetcher(range(50), preprocess=lambda value: value)
    iterator = iter(prefetcher)
    assert next(iterator) == 0
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            next(iterator)
        except ValueError as error:
            said = str(error)
        said += f"; anew {sum(prefetcher)}"
        del iterator
        os.write(writer, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    assert "began in the parent of this process" in said
    assert said.endswith("; anew 1225")
    assert list(iterator) == list(range(1, 50)), "the parent's goes on"


END = """
import itertools, sys, threading
from pyparallel.data import Prefetcher
abandoned = iter(Prefetcher(itertools.count(), preprocess=lambda value: value, workers=2))
waiting = iter(Prefetcher(iter(lambda: threading.Event().wait(0.01), 1)))
next(abandoned), next(waiting)
for value in Prefetcher(itertools.count()):
    sys.exit(3)
"""


def test_the_interpreter_ends_with_iterations_under_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", END], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
