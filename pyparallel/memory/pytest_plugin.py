"""For pytest: a test fails if it leaves blocks of a pool behind.

Not loaded by itself. In a conftest.py: `pytest_plugins = ["pyparallel.memory.pytest_plugin"]`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack

import pytest

from pyparallel.memory.leaks import assert_no_leak
from pyparallel.memory.pool import MemoryPool

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers that a test failed: what it holds then is no leak, its traceback keeps it."""
    report = yield
    if report.when == "call":
        item.stash[_FAILED] = report.failed
    return report


@pytest.fixture
def no_leak(request: pytest.FixtureRequest) -> Iterator[Callable[[MemoryPool], None]]:
    """`no_leak(pool)`: what is allocated from there on is freed when the test ends.

    Raises:
        AssertionError: at teardown of a test that passed, with the bytes and call sites.
    """
    with ExitStack() as watched:
        yield lambda pool: watched.enter_context(assert_no_leak(pool))
        if request.node.stash.get(_FAILED, False):
            watched.pop_all()
