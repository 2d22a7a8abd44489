"""The last words of a process that ends with an uncaught exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType


def describe(error: BaseException) -> str:
    """The exception in one line, with the place that raised it."""
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return text
    last = frames[-1]
    return f"{text} ({Path(last.filename).name}:{last.lineno} in {last.name})"


class UncaughtHook:
    """Tells somebody of an exception that ends the main thread, then calls the hook before it.

    SystemExit is no exception in this sense; KeyboardInterrupt is. Exceptions of other threads do
    not end a process and are not told.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Installs itself as sys.excepthook."""
        self._tell: Callable[[str], None] | None = tell
        self._previous = sys.excepthook
        sys.excepthook = self

    def __call__(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """As sys.excepthook is called."""
        if self._tell is not None:
            with suppress(Exception):
                self._tell(describe(error))
        self._previous(kind, error, trace)

    def remove(self) -> None:
        """Takes itself out; a hook that was put before it still finds its way past."""
        self._tell = None
        if sys.excepthook is self:
            sys.excepthook = self._previous
