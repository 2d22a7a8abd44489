"""Plug: another library's memory comes from a pool, until that is undone."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType


class Plug:
    """What the use_in_* functions return: in force already, undone at the end of a `with`.

    ::

        use_in_numpy(pool)           # from here on
        with use_in_numpy(pool):     # from here to the end of the block
            ...
    """

    def __init__(self, what: str, undo: Callable[[], None] | None) -> None:
        """Names what is in force.

        Args:
            what: of the library and the pool, for people.
            undo: puts back what was there before; None if nothing can.
        """
        self._what = what
        self._undo = undo
        self._right_to_undo = [None]  # one thread takes it out

    def undo(self) -> None:
        """Puts back what was there before; a second call does nothing.

        What was allocated meanwhile stays valid, and goes back to the pool when it is freed. Where
        the library refuses, its exception is raised, and the plug stays in force.

        Raises:
            ValueError: this plug cannot be undone.
        """
        if self._undo is None:
            raise ValueError(f"{self._what} cannot be undone in this process")
        try:
            self._right_to_undo.pop()
        except IndexError:
            return
        try:
            self._undo()
        except Exception:  # still in force
            self._right_to_undo.append(None)
            raise

    def __enter__(self) -> Plug:
        if self._undo is None:
            raise ValueError(f"{self._what} cannot be undone, so that it is no context")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.undo()

    def __repr__(self) -> str:
        return f"<{self._what}{'' if self._right_to_undo else ', undone'}>"
