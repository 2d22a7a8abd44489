"""The only import of the native core: a failure becomes one ImportError that says what to do."""

from __future__ import annotations

try:
    import pyparallel._C as core
except ImportError as error:
    raise ImportError(
        f"pyparallel's native core cannot be loaded ({error}). Install the wheel for this Python: "
        "`pip install .` in a checkout builds it (a C++20 compiler and CMake are enough). Python "
        "started in a checkout imports from there: `python setup.py build_ext --inplace` first."
    ) from error

__all__ = ["core"]
