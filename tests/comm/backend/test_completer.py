"""Completer: calls run in order in one thread, which starts late and ends with stop()."""

from __future__ import annotations

import threading
from functools import partial

from pyparallel.comm.backend.completer import Completer


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "completer" in thread.name]


def _note_thread(threads: set[threading.Thread]) -> None:
    threads.add(threading.current_thread())


def test_calls_run_in_order_and_the_thread_ends() -> None:
    before = len(names())
    completer = Completer()
    assert len(names()) == before
    completer.stop()
    for _ in range(2):  # a stopped one starts again
        seen: list[int] = []
        threads: set[threading.Thread] = set()
        done = threading.Event()
        for number in range(100):
            completer.add(partial(seen.append, number))
        completer.add(partial(_note_thread, threads))
        completer.add(done.set)
        assert done.wait(30)
        assert seen == list(range(100))
        assert len(threads) == 1
        completer.stop()
        threads.pop().join(30)
        assert len(names()) == before
