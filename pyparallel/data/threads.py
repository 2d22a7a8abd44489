"""The pipeline's threads, which leave the cores to the loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import torch

_changing_torch = threading.Lock()


def _renew_lock() -> None:
    """In a forked child, where whoever held it is missing."""
    global _changing_torch
    _changing_torch = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class PipelineThread(threading.Thread):
    """A thread that holds its arguments only as long as its target runs."""

    def __init__(
        self,
        name: str,
        target: Callable[..., None],
        arguments: tuple[Any, ...],
        *,
        on_failure: Callable[[BaseException], None],
        on_one_core: bool,
    ) -> None:
        """Does not start it.

        Args:
            name: of what it does.
            target: what it runs.
            arguments: of `target`.
            on_failure: called with what `target` raises.
            on_one_core: whether torch's operations are to use no other core from within it.
        """
        super().__init__(name=f"pyparallel.data {name}", daemon=True)
        self._job: tuple[Callable[..., None], tuple[Any, ...]] | None = (target, arguments)
        self._on_failure = on_failure
        self._on_one_core = on_one_core
        self._is_settled = threading.Event()

    def start(self) -> None:
        """Returns when threads that are made from now on are not affected by this one."""
        super().start()
        self._is_settled.wait()

    def run(self) -> None:
        """Runs the target."""
        job, self._job = self._job, None
        assert job is not None
        target, arguments = job
        del job
        try:
            if self._on_one_core:
                _stay_on_one_core()
            self._is_settled.set()
            target(*arguments)
        except BaseException as error:
            self._is_settled.set()
            self._on_failure(error)


def _stay_on_one_core() -> None:
    """Gives the calling thread one of torch's threads, and every other what it had.

    torch keeps the number per thread, and besides what threads to come begin with. Only a thread
    that is not the calling one can put the latter back.
    """
    with _changing_torch:
        before = torch.get_num_threads()
        if before == 1:
            return
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(before,))
        other.start()
        other.join()
