"""`memory replay`: a table or JSON for a trace, one sentence for what is none."""

import json
from pathlib import Path

import pytest

from pyparallel.cli import main

TRACE = str(Path(__file__).parents[1] / "memory/traces/small_cnn.npz")


def test_a_trace_is_replayed(capsys):
    assert main(["memory", "replay", TRACE, "--policy", "torch", "--policy", "rmm"]) == 0
    printed = capsys.readouterr().out
    assert "small_cnn.npz" in printed
    assert "utilisation" in printed
    assert "rmm" in printed


def test_json_is_nothing_but_json(capsys):
    assert main(["memory", "replay", TRACE, "--json", "--policy", "pyparallel"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in result["policies"]] == ["pyparallel"]


@pytest.mark.parametrize("file", ["missing", __file__])
def test_what_is_no_trace_is_one_sentence_and_exit_code_2(file, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["memory", "replay", file])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
