"""Recording: a pool is watched from now on, until it is closed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pyparallel._native import core

OWN = str(Path(__file__).parent) + "/"
"""The folder whose frames are no call sites of a user."""


class Recording:
    """Events and call sites of a pool; made by `MemoryPool.record`. Also a context manager."""

    def __init__(self, pool: core.Pool, *, max_events: int, frames: int) -> None:
        """Begins to watch.

        Args:
            pool: the native one.
            max_events: at least so many of the latest are kept, in 64 bytes each; 0: none.
            frames: of a call site, the innermost.

        Raises:
            ValueError: a number of events or frames that cannot be kept.
        """
        if not 0 <= max_events <= 1 << 28:
            raise ValueError(f"max_events: {max_events} is not between 0 and {1 << 28}")
        self._pool = pool
        self._native = core.Recorder(max_events, frames, OWN)
        pool.observe(self._native)

    @property
    def is_open(self) -> bool:
        """Whether it watches: neither closed nor followed by another."""
        return self._pool.observer() is self._native

    def close(self) -> None:
        """Watches no more; what was recorded stays. May be called again."""
        self._pool.unobserve(self._native)

    def clear(self) -> None:
        """Forgets the events until now."""
        self._native.clear()

    def history(self) -> tuple[list[tuple[str, int, int, int, int, int, int]], int]:
        """Events, the oldest first, and how many were lost: overwritten, or being written now.

        An event is (action, address, bytes, stream, site, thread, nanoseconds since 1970), its
        action in torch's words.
        """
        return self._native.history()

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
