"""Where the loop is in the data: at the batch delivered last, however far ahead was read."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PROGRESS_SECONDS = 10.0
LOGGER = logging.getLogger("pyparallel.data")


@dataclass
class Position:
    """A place in the data.

    Attributes:
        batches: delivered since the beginning of this pass; 0 at its end, too.
        loader_state: what the loader's own state_dict() gave there; None if it has none.
        is_whole: whether all that was read has been delivered, and reading has ended.
    """

    batches: int = 0
    loader_state: Any = None
    is_whole: bool = False

    def state_dict(self) -> dict[str, Any]:
        """As plain values, to be saved."""
        return {"batches": self.batches, "loader": copy.deepcopy(self.loader_state)}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Position:
        """The way back.

        Raises:
            ValueError: something else than `state_dict` gave.
        """
        if set(state) != {"batches", "loader"}:
            raise ValueError(f"a Prefetcher's state has 'batches' and 'loader', not {list(state)}")
        batches = state["batches"]
        if type(batches) is not int or batches < 0:
            raise ValueError(f"'batches' is {batches!r}, not a number of batches")
        return cls(batches, copy.deepcopy(state["loader"]))


def snapshot_of(loader: object) -> Callable[[], Any]:
    """What takes the loader's state; it gives None where the loader has none."""
    take = getattr(loader, "state_dict", None)
    return (lambda: None) if take is None else lambda: copy.deepcopy(take())


def restore(loader: Any, position: Position) -> int:
    """Puts a loader to a position; returns how many batches are still to be skipped.

    Raises:
        ValueError: the state of a loader for one that takes none.
    """
    if position.loader_state is not None:
        if not hasattr(loader, "load_state_dict"):
            raise ValueError(
                f"the state is of a loader with load_state_dict(), but {type(loader).__name__} "
                "has none"
            )
        loader.load_state_dict(copy.deepcopy(position.loader_state))
        return 0
    if position.batches:
        warnings.warn(
            f"{type(loader).__name__} has no state_dict(): to resume, {position.batches} batches "
            "are read again and dropped. Progress is logged by 'pyparallel.data'",
            stacklevel=3,
        )
    return position.batches


def skip(source: Iterator[Any], number: int, *, is_stopped: Callable[[], bool]) -> None:
    """Reads batches and drops them; logs its progress every ten seconds.

    Raises:
        ValueError: the loader ends before.
    """
    start = told = time.monotonic()
    for done in range(number):
        if is_stopped():
            return
        try:
            next(source)
        except StopIteration:
            raise ValueError(
                f"cannot resume after batch {number}: the loader ended after {done}"
            ) from None
        now = time.monotonic()
        if now - told >= PROGRESS_SECONDS:
            told = now
            left = (now - start) / (done + 1) * (number - done - 1)
            LOGGER.warning("skipped %d of %d batches, about %.0f s left", done + 1, number, left)
    if number:
        LOGGER.info("skipped %d batches in %.1f s", number, time.monotonic() - start)
