"""No test of the input pipeline may leave one of its threads."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest


def threads_left() -> list[str]:
    """Names of the pipeline's threads that run."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("pyparallel.data")]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    gc.collect()
    assert threads_left() == []
