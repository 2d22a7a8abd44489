"""`python -m pyparallel run`: what it fills in, what it passes on, how it reports a failure."""

import os
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

import pyparallel
from pyparallel.cli import machine, run


@pytest.fixture
def script(tmp_path):
    """Writes a script that needs no torch; returns its path."""

    def write(source: str) -> Path:
        path = tmp_path / "script.py"
        path.write_text("import os, signal, sys, time\n" + textwrap.dedent(source))
        return path

    return write


def launch(*arguments: object, cwd: Path | None = None, **environment: str):
    source = str(Path(pyparallel.__file__).parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, "-m", "pyparallel", *map(str, arguments)],
        env=inherited | {"PYTHONPATH": path} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_ranks_get_their_place_threads_and_arguments(script, tmp_path):
    path = script("""
        place = [os.environ[name] for name in ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS")]
        open(f"{sys.argv[1]}/{place[0]}", "w").write(" ".join(place + sys.argv[2:]))
    """)
    finished = launch("run", "-n", 2, path, tmp_path, "-n", "5", "--threads", "x", "--help")
    assert finished.returncode == 0, finished.stderr
    threads = max(1, machine.usable_cores() // 2)
    for rank in (0, 1):
        assert (tmp_path / str(rank)).read_text() == f"{rank} 2 {threads} -n 5 --threads x --help"
    assert finished.stderr == ""


def test_the_failed_rank_s_exit_code_comes_back_with_one_sentence(script):
    path = script("""
        if os.environ["RANK"] == "1":
            sys.exit(7)
        time.sleep(60)
    """)
    finished = launch("run", "-n", 2, path)
    assert finished.returncode == 7
    assert finished.stderr == "python -m pyparallel run: rank 1 ended with exit code 7\n"


def test_a_killed_rank_is_named_with_its_signal(script):
    path = script("""
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    """)
    finished = launch("run", "-n", 2, path)
    assert finished.returncode == 128 + 9
    assert finished.stderr == "python -m pyparallel run: rank 1 was stopped by SIGKILL\n"


def test_a_module_runs_like_a_script(script, tmp_path):
    script("""
        open(os.environ["RANK"], "w").write(os.environ["OMP_NUM_THREADS"])
    """)
    finished = launch("run", "-n", 1, "--threads", 3, "-m", "script", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "0").read_text() == "3"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "script.py"),
        (["none.py"], "there is no script none.py"),
        (["-n", "0", __file__], "-n must be at least 1, but is 0"),
        (["-n", "two", __file__], "two"),
        (["--threads", "0", __file__], "--threads must be at least 1, but is 0"),
        (["--no-such-option", __file__], "--no-such-option"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in printed
    assert printed.startswith("python -m pyparallel run: ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("gpus", "cores", "arguments", "processes"),
    [
        ([], 6, [], 6),
        ([], 6, ["--threads", "2"], 3),
        ([], 1, ["--threads", "4"], 1),
        (["GPU", "GPU"], 6, [], 2),
        (["GPU"], 6, ["-n", "5"], 5),
    ],
)
def test_processes_default_to_gpus_or_else_cores_by_threads(
    monkeypatch, gpus, cores, arguments, processes
):
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(machine, "usable_cores", lambda: cores)
    assert run.parse([*arguments, __file__]).nproc_per_node == processes


def test_threads_default_to_the_cores_left_to_a_rank_unless_set(monkeypatch):
    monkeypatch.setattr(machine, "usable_cores", lambda: 7)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run.environment(run.parse(["-n", "2", __file__])) == {"OMP_NUM_THREADS": "3"}
    assert run.environment(run.parse(["-n", "9", __file__])) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert run.environment(run.parse(["-n", "2", __file__])) == {}
    both = run.parse(["-n", "2", "--threads", "4", __file__])
    assert run.environment(both) == {"OMP_NUM_THREADS": "4"}


def test_one_host_is_standalone_and_a_rendezvous_of_the_user_is_left_alone():
    assert run.parse(["-n", "2", __file__]).standalone
    several = run.parse(
        ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "head:29400", __file__]
    )
    assert not several.standalone
    assert (several.nnodes, several.rdzv_endpoint) == ("2", "head:29400")
    assert not run.parse(["--master-port", "1234", __file__]).standalone


def test_the_first_failure_is_the_cause_not_those_that_noticed_it():
    def failure(timestamp, exitcode):
        return types.SimpleNamespace(timestamp=timestamp, exitcode=exitcode)

    killed = {0: failure(5, 1), 1: failure(5, -9), 2: failure(5, -15)}
    assert run.first_failure(killed) == (1, -9)
    raised = {0: failure(5, -15), 1: failure(5, 3)}
    assert run.first_failure(raised) == (1, 3)
    earlier = {0: failure(6, -9), 1: failure(5, 3)}
    assert run.first_failure(earlier) == (1, 3)
