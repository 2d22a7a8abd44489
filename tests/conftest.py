"""Shared by all tests: fresh random inputs from a printed seed; nothing may stay behind."""

from __future__ import annotations

import os
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import settings

import ranks

settings.register_profile("pyparallel", deadline=None, database=None, print_blob=True)
settings.load_profile("pyparallel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="repeat a run with its printed seed")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--seed") is None:
        config.option.seed = random.SystemRandom().randrange(1 << 31)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed: {config.getoption('--seed')} (repeat with --seed {config.getoption('--seed')})"


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """A seed of this test in this run; torch is seeded with it."""
    base = request.config.getoption("--seed")
    number = zlib.crc32(f"{base} {request.node.nodeid}".encode())
    print(f"random inputs drawn with seed {number}; repeat with --seed {base}")
    torch.manual_seed(number)
    return number


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts the number of torch's threads back that a test changes."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_behind() -> Iterator[None]:
    """No rank outlives the tests, and no test makes a name in /dev/shm that stays."""
    before = set(os.listdir("/dev/shm"))
    yield
    time.sleep(0.1)
    alive = [pid for pid in ranks.STARTED if _is_rank(pid)]
    assert not alive, f"ranks still alive: {alive}"
    left = {name for name in set(os.listdir("/dev/shm")) - before if _is_ours(name)}
    assert not left, f"left in /dev/shm: {left}"


def _is_rank(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and os.getpid() in {
            parent.pid for parent in process.parents()
        }
    except psutil.NoSuchProcess:
        return False


def _is_ours(name: str) -> bool:
    try:
        return (Path("/dev/shm") / name).stat().st_uid == os.getuid()
    except FileNotFoundError:
        return False
