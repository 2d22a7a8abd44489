"""OwnWork: a message between two ranks of one host, whose errors name ranks of the job."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from pyparallel.comm.communicator import Work
from pyparallel.comm.hierarchical.lane import Explain
from pyparallel.comm.hierarchical.layout import Layout, in_the_job
from pyparallel.errors import PeerLostError, PyparallelError


class OwnWork:
    """A Work of this host's communicator."""

    def __init__(
        self, layout: Layout, explain: Explain, what: str, start: Callable[[], Work]
    ) -> None:
        """Starts it; `explain` turns what goes wrong into the communicator's failure."""
        self._layout = layout
        self._explain = explain
        self._what = what
        try:
            self._work: Any = start()
        except PyparallelError as error:
            raise self._in_the_job(error) from None

    @property
    def started_ns(self) -> int:
        """See Work."""
        return int(self._work.started_ns)

    @property
    def ended_ns(self) -> int:
        """See Work."""
        return int(self._work.ended_ns)

    @property
    def source(self) -> int | None:
        """The rank whose message a recv took. Known when it is completed."""
        local = self._work.source
        return None if local is None else self._layout.hosts.ranks[self._layout.host][local]

    def wait(self) -> None:
        """See Work.wait."""
        try:
            self._work.wait()
        except PyparallelError as error:
            raise self._in_the_job(error) from None

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        return bool(self._work.is_completed())

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        error = self._work.exception()
        return self._in_the_job(error) if isinstance(error, PyparallelError) else error

    def has_lost_peers(self) -> bool:
        """Whether it has ended because ranks of this host have left."""
        return isinstance(self._work.exception(), PeerLostError)

    def withdraw(self) -> bool:
        """Takes back a recv for which no message has come; False if one has."""
        return bool(self._work.withdraw())

    def _in_the_job(self, error: PyparallelError) -> BaseException:
        layout = self._layout
        return self._explain(in_the_job(error, layout.hosts, layout.rank), self._what)


class OwnProgress:
    """How far an OwnWork is, without keeping its tensor; the host's own record knows more."""

    failed = False

    def __init__(self, work: OwnWork) -> None:
        self._work = weakref.ref(work)

    @property
    def started_ns(self) -> int:
        """See Work."""
        work = self._work()
        return work.started_ns if work else 0

    @property
    def ended_ns(self) -> int:
        """See Work."""
        work = self._work()
        return work.ended_ns if work else 0

    @property
    def completed(self) -> bool:
        """Whether it has ended; what nobody holds any more is waited for by nobody."""
        work = self._work()
        return work is None or work.ended_ns > 0
