"""Failures: finds out who is to blame for what went wrong, ends everything and tells all ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torch._C._distributed_c10d import Store

from pyparallel.comm._flight_recorder import FlightRecorder
from pyparallel.comm.hierarchical.hosts import Hosts
from pyparallel.comm.watch import Failure, FailureWatch
from pyparallel.errors import (
    CollectiveTimeoutError,
    PeerFailedError,
    PeerLostError,
    PyparallelError,
)

SILENCE_SECONDS = 5.0  # after which a host that does not answer the kernel's probes is cut off
# A broken connection may be the end of a chain: so long the watch has to name its beginning.
_WATCH_SECONDS = 1.0


class Failures:
    """The first failure that this rank knows of is the communicator's end."""

    def __init__(self, hosts: Hosts, rank: int, flights: FlightRecorder) -> None:
        """Nobody is watched yet."""
        self._flights = flights
        self.error: BaseException | None = None
        self._hosts = hosts
        self._rank = rank
        self._end: Callable[[BaseException], None] | None = None
        self._left: set[int] = set()
        self._changed = threading.Condition()
        self._watch: FailureWatch | None = None

    def watch(self, store: Store, address: str, *, timeout_seconds: float) -> None:
        """Joins the other ranks' watch; collective."""
        self._watch = FailureWatch(
            store,
            self._rank,
            len(self._hosts.host_of),
            self._seen,
            on_left=self._leave,
            on_asked=self._flights.asked,
            address=address,
            timeout_seconds=timeout_seconds,
            silence_seconds=SILENCE_SECONDS,
        )
        self._flights.begin(self._watch)

    def on_end(self, end: Callable[[BaseException], None]) -> None:
        """`end` is called once, with the error that everything in flight ends with."""
        with self._changed:
            self._end = end
        if self.error is not None:
            end(self.error)

    def explain(self, error: BaseException, what: str) -> BaseException:
        """What everything ends with after this error in operation `what`; tells all ranks.

        That of a deadline learns before, within about 1 s, who waits for whom.
        """
        if isinstance(error, CollectiveTimeoutError) and self.error is None:
            self._flights.explain(error)
        if isinstance(error, PeerLostError | PeerFailedError):
            peer = error.rank
            with self._changed:
                self._changed.wait_for(
                    lambda: self.error is not None or peer in self._left, _WATCH_SECONDS
                )
                if peer in self._left:
                    who = self._hosts.describe(peer)
                    error = PeerLostError(f"{who} left; rank {self._rank} was in {what}()", peer)
            failure = Failure(peer, what, str(error), lost=True)
            if isinstance(error, PeerFailedError):
                failure = Failure(peer, error.operation, error.cause, lost=False)
        else:
            cause = str(error) if isinstance(error, PyparallelError) else repr(error)
            failure = Failure(self._rank, what, cause, lost=False)
        self._tell(failure, error)
        assert self.error is not None
        return self.error

    def abort(self, cause: str, operation: str) -> None:
        """This rank has failed."""
        failure = Failure(self._rank, operation, cause, lost=False)
        self._tell(failure, self._error_of(failure))

    def close(self, error: BaseException) -> None:
        """Leaves in good order; what is called later gets the error."""
        if self._watch is not None:
            self._watch.close()
        self._conclude(error)

    def _tell(self, failure: Failure, error: BaseException) -> None:
        if self.error is None and self._watch is not None:
            self._watch.report(failure)
        self._conclude(error)

    def _seen(self, failure: Failure) -> None:
        self._conclude(self._error_of(failure))

    def _leave(self, rank: int) -> None:
        with self._changed:
            self._left.add(rank)
            self._flights.left.add(rank)
            self._changed.notify_all()

    def _conclude(self, error: BaseException) -> None:
        with self._changed:
            if self.error is not None:
                return
            self.error = error
            self._changed.notify_all()
            end = self._end
        if end is not None:
            end(error)
        if not isinstance(error, ValueError):  # closed in good order
            self._flights.failed(error)

    def _error_of(self, failure: Failure) -> PyparallelError:
        who = self._hosts.describe(failure.rank)
        if failure.lost:
            known = failure.cause.startswith("rank")  # another rank's words, with what it was in
            message = failure.cause if known else f"{who} died or was cut off: {failure.cause}"
            return PeerLostError(message, failure.rank)
        where = f" in {failure.operation}()" if failure.operation else ""
        message = f"{who} failed{where}: {failure.cause}"
        return PeerFailedError(message, failure.rank, failure.operation, failure.cause)
