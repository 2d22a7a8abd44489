"""Collectives of several stages as one Work: what comes after the first stage runs in wait().

Three buckets whose compressed all_reduce has two stages, s1 and s2, as every rank issues them:

    backward     s1(0)  s1(1)  s1(2)                      one bucket after the other is full
    wait of 0                         s2(0) s2(1) s2(2)   a stage of each, in the order of issue
    wait of 1, 2                                          nothing is left to do

Nothing here looks at what happens to be completed, so the order is the same on all ranks, and while
one bucket's values are decoded the others' travel.
"""

from __future__ import annotations

from collections.abc import Generator

from pyparallel.comm.communicator import Work

Stages = Generator[Work, None, None]
"""Yields each collective it issues; is resumed when that one's result is there."""


class StagedWork:
    """A collective of several stages in flight."""

    def __init__(self, stages: Stages, queue: StageQueue) -> None:
        """Begins nothing yet: see StageQueue.start."""
        self._stages = stages
        self._queue = queue
        self._works: list[Work] = []
        self._done = False
        self._error: BaseException | None = None

    @property
    def started_ns(self) -> int:
        """When the first stage's collective began to run."""
        return self._works[0].started_ns if self._works else 0

    @property
    def ended_ns(self) -> int:
        """When the last stage's collective was through; 0 before."""
        return self._works[-1].ended_ns if self._done and self._works else 0

    def wait(self) -> None:
        """Runs the stages that are left, those of the works beside it among them; see Work.wait."""
        self._queue.finish(self)
        if self._error is not None:
            raise self._error

    def is_completed(self) -> bool:
        """Whether all stages are through, which is so after wait()."""
        return self._done

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        return self._error

    def advance(self) -> None:
        """Waits for the stage under way and begins the next; an error is kept for wait()."""
        if self._done:
            return
        try:
            if self._works:
                self._works[-1].wait()
            self._works.append(next(self._stages))
        except StopIteration:
            self._done = True
        except BaseException as error:
            self._error, self._done = error, True
            if not isinstance(error, Exception):
                raise


class StageQueue:
    """The works in flight of one communicator, in the order of issue."""

    def __init__(self) -> None:
        """An empty queue."""
        self._in_flight: list[StagedWork] = []

    def start(self, stages: Stages) -> StagedWork:
        """Issues the first stage; raises what that raises."""
        work = StagedWork(stages, self)
        work.advance()
        error = work.exception()
        if error is not None:
            raise error
        self._in_flight.append(work)
        return work

    def finish(self, work: StagedWork | None = None) -> None:
        """Runs stage after stage of all works until this one is completed; None: until all are."""
        while self._in_flight and not (work is not None and work.is_completed()):
            for other in self._in_flight:
                other.advance()
            self._in_flight = [other for other in self._in_flight if not other.is_completed()]
