"""The excepthook: tells once, keeps the hooks before and after it, is gone after remove()."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from pyparallel._uncaught import UncaughtHook, describe


@pytest.fixture(autouse=True)
def keep_hook() -> Iterator[None]:
    before = sys.excepthook
    yield
    sys.excepthook = before


def raised() -> ValueError:
    try:
        raise ValueError("first line\nsecond line")
    except ValueError as error:
        return error


def test_a_description_names_type_text_and_place() -> None:
    text = describe(raised())
    assert text.startswith("ValueError: first line (test_uncaught.py:")
    assert text.endswith(" in raised)")
    assert describe(KeyError("never raised")) == "KeyError: 'never raised'"


def test_the_hook_tells_and_calls_the_one_before() -> None:
    told: list[str] = []
    before: list[object] = []
    sys.excepthook = lambda *given: before.append(given)
    ours = UncaughtHook(told.append)
    error = raised()
    sys.excepthook(ValueError, error, None)
    assert told == [describe(error)]
    assert before == [(ValueError, error, None)]
    ours.remove()
    sys.excepthook(ValueError, error, None)
    assert len(told) == 1
    assert len(before) == 2


def test_a_hook_put_over_ours_stays_and_a_failing_listener_is_silent() -> None:
    reached: list[object] = []
    sys.excepthook = lambda *given: reached.append(given)

    def fail(text: str) -> None:
        raise RuntimeError(text)

    ours = UncaughtHook(fail)

    def above(*given: object) -> None:
        ours(*given)  # type: ignore[arg-type]

    sys.excepthook = above
    sys.excepthook(ValueError, raised(), None)
    ours.remove()
    assert sys.excepthook is above
    sys.excepthook(ValueError, raised(), None)
    assert len(reached) == 2


SCRIPT = """
import sys, torch, pyparallel
from ranks import meet
context = pyparallel.init()
meet("joined")
if context.rank == 1:
    {action}
try:
    context.communicator.all_reduce(torch.ones(3)).wait()
except pyparallel.errors.PyparallelError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("action", "expected", "code"),
    [
        ("raise ValueError('bad batch')", "PeerFailedError rank 1", 1),
        ("sys.exit(0)", "PeerLostError rank 1", 0),
    ],
)
def test_a_real_interpreter_tells_its_peers(action: str, expected: str, code: int) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "PYPARALLEL_TIMEOUT": "60",
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        }
        command = [sys.executable, "-c", SCRIPT.format(action=action)]
        pipe = subprocess.PIPE
        processes.append(
            subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
        )
    (output, errors), (_, trace) = (process.communicate(timeout=120) for process in processes)
    assert expected in output, (output, errors)
    assert [process.returncode for process in processes] == [0, code]
    if code:
        assert "failed in its own code: ValueError: bad batch (<string>:7 in <module>)" in output
        assert "ValueError: bad batch" in trace  # the interpreter's own hook still prints
