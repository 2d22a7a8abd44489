"""GroupWork: an operation of a torch process group as our protocol sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import torch.distributed as dist
from torch import Tensor


class GroupWork:
    """A torch operation in flight, and what is still to be done with its result.

    Attributes:
        started_ns: when it was called: torch does not tell when it began to run.
        ended_ns: when wait() came back; 0 before.
    """

    def __init__(
        self,
        work: dist.Work | None,
        tensors: tuple[Tensor | None, ...],
        finish: Callable[[], object] | None = None,
    ) -> None:
        self._work = work
        self._tensors = tensors  # kept alive
        self._finish = finish
        self.started_ns = time.monotonic_ns()
        self.ended_ns = 0

    def wait(self) -> None:
        """See Work.wait: on CUDA the current stream waits, the host does not."""
        if self.ended_ns:
            return
        if self._work is not None:
            self._work.wait()
        if self._finish is not None:
            self._finish()
        self.ended_ns = time.monotonic_ns()
        self._tensors = ()

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        return self.ended_ns > 0 or self._work is None or self._work.is_completed()

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        if self._work is None or not self._work.is_completed() or self._work.is_success():
            return None
        return cast("BaseException", self._work.exception())

    @property
    def source(self) -> int:
        """The rank whose message a recv took. Known when it is completed."""
        assert self._work is not None
        return int(self._work._source_rank())
