"""No test of the input pipeline may leave one of its threads."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from leftovers import threads_left


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    if threads_left():
        gc.collect()
    assert threads_left() == []
