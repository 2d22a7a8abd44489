"""Pickles of plain data: dicts, lists, texts, numbers; anything else is refused: no code runs."""

from __future__ import annotations

import io
import pickle


class _Plain(pickle.Unpickler):
    """Knows no class and no function: plain data needs none."""

    def find_class(self, module: str, name: str) -> object:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain data is read")

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("it refers to objects outside of itself")


def load_plain(data: bytes) -> object:
    """The data of a pickle that anybody may have written.

    Raises:
        ValueError: damaged, or it holds more than dicts, lists, tuples, texts, bytes and numbers.
    """
    try:
        return _Plain(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, MemoryError) as error:
        raise ValueError(f"a pickle that is not read: {error}") from error
