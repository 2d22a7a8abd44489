"""`python -m pyparallel`: the choice of a command, and `env`."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyparallel
from pyparallel.cli import env, machine, main


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert "run " in printed
    assert "env " in printed


@pytest.mark.parametrize("arguments", [["trian"], ["--run"]])
def test_an_unknown_command_is_one_sentence_and_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert arguments[0] in printed
    assert "run, bench, memory, env" in printed
    assert printed.count("\n") == 1


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err


def test_env_shows_every_feature_and_the_machine(capsys):
    rows = dict(env.rows())
    for name in pyparallel.features():
        assert name.replace("_", " ") in rows
    assert rows["torch"] == torch.__version__
    assert rows["physical cores to use"] == str(machine.usable_cores())
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed


def test_usable_cores_counts_two_threads_of_one_core_once(monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1, 4, 5})
    monkeypatch.setattr(machine, "_siblings", lambda cpu: f"{cpu % 4},{cpu % 4 + 4}")
    assert machine.usable_cores() == 2


def test_the_command_line_loads_without_the_launcher():
    source = str(Path(pyparallel.__file__).parents[1])
    code = "import sys, pyparallel.cli; print('torch.distributed.run' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    assert finished.stdout == "False\n"
