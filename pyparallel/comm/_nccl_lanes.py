"""Messages between two ranks over NCCL: none waits for anything but its own counterpart.

NCCL runs the operations of one communicator one after the other, and a send waits for its receive.
Messages that may be interleaved in any way therefore need a communicator of the two ranks for each
direction. It is joined by both when the first message is there, in a thread: until the other rank
has come to its side, messages are kept and issued later, and only wait() on them blocks the host.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm._nccl_work import NcclWork
from pyparallel.errors import CollectiveTimeoutError

# Quoted: only CUDA builds have it.
Join = Callable[[], "core.NcclCommunicator"]
Issue = Callable[["core.NcclCommunicator", int], NcclWork]
"""Gives the operation to the communicator, behind a stream."""


class Message:
    """A send or receive, perhaps still to be issued.

    Attributes:
        source: the rank that sends it.
    """

    def __init__(
        self,
        source: int,
        timeout_seconds: float,
        on_overdue: Callable[[CollectiveTimeoutError], object] | None = None,
    ) -> None:
        """`on_overdue` gets the error of a deadline before it is raised."""
        self.source = source
        self._on_overdue = on_overdue
        self._timeout_seconds = timeout_seconds
        self._issued = threading.Event()
        self._work: NcclWork | None = None
        self._error: Exception | None = None
        self._issue: Issue | None = None
        self._behind: tuple[int, object] = (0, None)

    @property
    def started_ns(self) -> int:
        """See Work.started_ns."""
        return self._work.started_ns if self._work else 0

    @property
    def ended_ns(self) -> int:
        """See Work.ended_ns."""
        return self._work.ended_ns if self._work else 0

    def wait(self) -> None:
        """See Work.wait; the host waits until the other rank has come to the first message."""
        if not self._issued.wait(self._timeout_seconds):
            error = CollectiveTimeoutError(
                f"the other rank did not come to its first message in {self._timeout_seconds:g} s"
            )
            if self._on_overdue is not None:
                self._on_overdue(error)
            raise error
        if self._error is not None:
            raise self._error
        assert self._work is not None
        self._work.wait()

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        return self._error is not None or (self._work is not None and self._work.is_completed())

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        if self._error is not None:
            return self._error
        return self._work.exception() if self._work else None

    def keep(self, issue: Issue, device: torch.device) -> None:
        """To be issued later, behind what the current stream has been given by now."""
        self._issue = issue
        self._behind = _place_in_stream(device)

    def issue(self, issue: Issue, communicator: core.NcclCommunicator, stream: int) -> None:
        """Issues it now."""
        try:
            self._work = issue(communicator, stream)
        except Exception as error:
            self._error = error
        self._issued.set()

    def issue_kept(self, communicator: core.NcclCommunicator) -> None:
        """Issues what was kept."""
        assert self._issue is not None
        self.issue(self._issue, communicator, self._behind[0])
        self._issue, self._behind = None, (0, None)

    def fail(self, error: Exception) -> None:
        """It will not be issued any more."""
        self._issue = None
        self._error = error
        self._issued.set()


class Lane:
    """The messages of one direction between this rank and another, in order."""

    def __init__(self, join: Join, device: torch.device) -> None:
        self._join = join
        self._device = device
        self._lock = threading.Lock()
        self._kept: list[Message] = []
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.communicator: core.NcclCommunicator | None = None

    def submit(self, message: Message, issue: Issue) -> None:
        """Issues the message, now or when the other rank is there."""
        with self._lock:
            if self._error is not None:
                raise self._error
            if self.communicator is not None:
                _, stream = _tensors.device_and_stream(self._device)
                message.issue(issue, self.communicator, stream)
                return
            message.keep(issue, self._device)
            self._kept.append(message)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._open, name="pyparallel lane", daemon=True
                )
                self._thread.start()

    def fail(self, error: Exception) -> None:
        """Ends what is kept and all that comes."""
        with self._lock:
            self._error = self._error or error
            for message in self._kept:
                message.fail(self._error)
            self._kept.clear()

    def _open(self) -> None:
        try:
            communicator = self._join()
        except Exception as error:
            self.fail(error)
            return
        while True:
            with self._lock:
                if not self._kept:
                    self.communicator = communicator
                    return
                message = self._kept.pop(0)
            # Without the lock: in the first call NCCL connects the ranks and waits for the other.
            message.issue_kept(communicator)


def _place_in_stream(device: torch.device) -> tuple[int, object]:
    """A stream that is behind the current one as it is now, and what keeps it alive."""
    if device.type != "cuda":
        return 0, None
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    return stream.cuda_stream, stream
