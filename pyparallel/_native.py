"""The only import of the native core: a load failure becomes one ImportError that says what to do."""

from __future__ import annotations

try:
    from pyparallel import _C as core
except ImportError as error:
    raise ImportError(
        f"pyparallel's native core cannot be loaded ({error}). Install the wheel for this Python "
        "(`pip install .` in a checkout builds it; a C++20 compiler and CMake are enough), and do not "
        "import from the source folder of a checkout that has not been built in place."
    ) from error

__all__ = ["core"]
