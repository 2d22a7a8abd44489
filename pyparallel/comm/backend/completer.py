"""Completer: one thread per process group that completes the futures of works, in issue order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Completer:
    """Calls what is added, in order, in a thread that starts with the first call."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, call: Callable[[], None]) -> None:
        """Queues a call that keeps its own errors; one made by a call is made at once."""
        if threading.current_thread() is self._thread:  # its caller may be about to wait for it
            call()
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="pyparallel-completer", daemon=True
                )
                self._thread.start()
        self._calls.put(call)

    def stop(self) -> None:
        """Ends the thread after what is queued; adding starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)

    def _run(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            call()
            del call  # it holds tensors
