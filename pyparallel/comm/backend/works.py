"""CollectiveWork: torch's Work over the works of our communicator, and the futures made from it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.futures import Future

from pyparallel.comm.backend.completer import Completer
from pyparallel.comm.communicator import Work
from pyparallel.errors import CollectiveTimeoutError

_ENGINE = torch.autograd.graph._engine_run_backward.__code__  # its frame is C++'s during backward
_TorchWork: Any = dist.Work  # torch's picture of it lacks what C++ looks up


class CollectiveWork(_TorchWork):  # type: ignore[misc]
    """One or more operations in flight, and what has to be written back when they are through.

    Whoever first waits, asks or completes the future settles it: waits for the communicator's
    works, writes back, keeps the error. The tensors are held until then.
    """

    __slots__ = (
        "_background",
        "_completer",
        "_error",
        "_finish",
        "_outputs",
        "_parts",
        "_polled",
        "_seconds",
        "_settled",
        "_settling",
        "_what",
    )

    def __init__(
        self,
        what: str,
        parts: Sequence[Work],
        outputs: Sequence[Any],
        finish: Callable[[], None] | None = None,
        *,
        completer: Completer | None = None,
        background: bool = True,
        seconds: float = 0.0,
    ) -> None:
        """Takes over operations that have been issued.

        Args:
            what: the operation's name, for messages.
            parts: the communicator's works, in issue order.
            outputs: result of the work and value of its future.
            finish: called once after the parts are through.
            completer: of works that complete in issue order; None: they may complete at any time.
            background: whether the parts make progress while nobody waits.
            seconds: deadline of wait() where the caller gives none; 0: the communicator's.
        """
        super().__init__()
        self._what = what
        self._parts = parts
        self._outputs = outputs
        self._finish = finish
        self._completer = completer
        self._background = background
        self._seconds = seconds
        self._error: Exception | None = None
        self._settling = threading.Lock()
        self._settled = False
        self._polled = False

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Returns when the results are there.

        Raises:
            PeerLostError, PeerFailedError, CollectiveMismatchError: as the communicator's works.
            CollectiveTimeoutError: it took longer than `timeout`; it is still in flight.
        """
        if not self._settled:
            seconds = timeout.total_seconds() if timeout is not None else 0.0
            seconds = seconds if seconds > 0 else self._seconds
            if seconds > 0:
                self._settle_within(seconds)
            else:
                self.settle()
        if self._error is not None:
            raise self._error
        return True

    def synchronize(self) -> None:
        """The same as wait() for tensors on the CPU."""
        self.wait()

    def is_completed(self) -> bool:
        """Whether wait() would return or raise at once; then the results are there."""
        if self._settled:
            return True
        if all(part.is_completed() for part in self._parts):
            self.settle()
            return True
        if not self._background and not self._polled:  # who polls does not wait: see to progress
            self._polled = True
            self._settle_elsewhere()
        return False

    def is_success(self) -> bool:
        """Whether it is completed without an error."""
        return self.is_completed() and self._error is None

    def exception(self) -> BaseException | None:
        """The error of a completed work, or None."""
        return self._error if self.is_completed() else None

    def result(self) -> Sequence[Any]:
        """The tensors that were written.

        Raises:
            RuntimeError: the work is not completed.
        """
        if not self.is_completed():
            raise RuntimeError(f"{self._what} is not completed: wait() comes before result()")
        return self._outputs

    def source_rank(self) -> int:
        """The rank that a received message came from; waits for it."""
        self.wait()
        source = getattr(self._parts[0], "source", None) if self._parts else None
        if source is None:
            raise RuntimeError(f"{self._what} has no source rank: it is no receive")
        return int(source)

    _source_rank = source_rank

    def get_future(self) -> Future[Any]:
        """A future of the results; an error reaches whoever waits for it as RuntimeError."""
        promise: Future[None] = Future()
        # An exception raised in then() is an error for C++ too, one given to set_exception() is a
        # value there: DistributedDataParallel's reducer takes it for a tensor and crashes.
        future = promise.then(partial(_value, self))
        settle = partial(self._fulfil, promise)
        if self._settled:
            settle()
        elif not self._background and sys._getframe(1).f_code is _ENGINE:
            # DistributedDataParallel's reducer, and no core is free: when backward has ended, right
            # before the reducer waits. A hook in Python might wait at once.
            torch.autograd.Variable._execution_engine.queue_callback(settle)
        else:
            self._settle_elsewhere(settle)
        return future

    def settle(self) -> None:
        """Waits for the parts and writes back, unless that is done; keeps an error."""
        with self._settling:
            if self._settled:
                return
            try:
                for part in self._parts:
                    part.wait()
                if self._finish is not None:
                    self._finish()
            except Exception as error:
                self._error = error
            self._finish = None
            self._settled = True

    def _fulfil(self, promise: Future[None]) -> None:
        self.settle()
        promise.set_result(None)

    def _settle_elsewhere(
        self, settle: Callable[[], None] | None = None
    ) -> threading.Thread | None:
        if self._completer is not None:
            self._completer.add(settle or self.settle)
            return None
        return _in_thread(settle or self.settle)

    def _settle_within(self, seconds: float) -> None:
        _in_thread(self.settle).join(min(seconds, threading.TIMEOUT_MAX))
        if not self._settled:
            raise CollectiveTimeoutError(
                f"{self._what} was waited for {seconds:g} s and is not completed"
            )


def _value(work: CollectiveWork, _: Future[None]) -> Any:
    work.wait()
    return work.result()


def _in_thread(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call, name="pyparallel-wait", daemon=True)
    thread.start()
    return thread


DONE = CollectiveWork("a collective", (), ())
"""What a synchronous call returns: nobody looks at it."""
DONE.settle()
