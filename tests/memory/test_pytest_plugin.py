"""The fixture: red where a block stays behind, silent where not, and never loaded unasked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyparallel

TESTS = """
from pyparallel.memory import MemoryPool

pool = MemoryPool()

def test_clean(no_leak):
    no_leak(pool)
    pool.free(pool.allocate(10))

def test_planted(no_leak):
    no_leak(pool)
    pool.allocate(123)

def test_fails_for_another_reason(no_leak):
    no_leak(pool)
    block = pool.allocate(456)
    assert False, "another reason"
"""


def test_a_planted_leak_goes_red(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["pyparallel.memory.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(TESTS)
    root = str(Path(pyparallel.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert "1 failed, 2 passed, 1 error" in finished.stdout
    assert "123 bytes in 1 blocks are still live" in finished.stdout
    assert "in test_planted" in finished.stdout or ":test_planted" in finished.stdout
    assert "456 bytes" not in finished.stdout


def test_nothing_loads_it_unasked() -> None:
    code = "import sys, pyparallel.memory; print('pytest' in sys.modules)"
    root = str(Path(pyparallel.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert finished.stdout == "False\n"
