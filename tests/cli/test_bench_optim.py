"""`python -m pyparallel bench optim`: verified contestants, counted bytes, clear errors."""

import argparse
import json

import pytest
import torch

from pyparallel.cli import bench_optim, main, peers

SMALL = ["--tensors", "2x[33]+1x[5,7]", "--rounds", "2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch, threads):
    torch.set_num_threads(1)
    monkeypatch.setattr(bench_optim, "COPY_BYTES", 1 << 16)


@pytest.mark.parametrize("name", peers.NAMES)
def test_every_optimizer_is_measured_beside_torchs(name, tmp_path, capsys):
    path = tmp_path / "rows.json"
    matrices = ["--tensors", "2x[5,7]", "--rounds", "2"]
    assert main(["bench", "optim", "--optimizer", name, *matrices, "--json", str(path)]) == 0
    rows = json.loads(path.read_text())
    names = [row["contestant"] for row in rows]
    assert names[0] == "pyparallel"
    assert rows[0]["ratio"] == 1.0
    assert ("torch for-loop" in names) == hasattr(torch.optim, peers._CLASSES[name])
    assert "pyparallel" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--amp"],
        ["--dtype", "bf16", "--master", "remainder"],
        ["--dtype", "bf16", "--state-dtype", "8bit", "--stochastic-rounding"],
        ["--dtype", "fp64"],
    ],
    ids=" ".join,
)
def test_every_way_is_measured(options):
    assert main(["bench", "optim", *SMALL, *options]) == 0


def test_a_contestant_that_steps_wrongly_gets_no_number(monkeypatch, capsys):
    good = peers.entrants

    def other(*arguments):
        found = good(*arguments)
        still = [param.detach().clone() for param in found[0].params]
        return [*found, peers.Entrant("cheat", still, lambda: None)]

    monkeypatch.setattr(bench_optim, "entrants", other)
    assert main(["bench", "optim", *SMALL]) == 1
    assert "cheat moved the parameters differently" in capsys.readouterr().err


def test_bytes_are_counted_by_what_must_move():
    def count(ours, **changes):
        options = {"dtype": "fp32", "master": None, "state_dtype": "fp32", "amp": False}
        return peers.bytes_per_parameter(
            "adamw", argparse.Namespace(**(options | changes)), ours=ours
        )

    assert count(True) == count(False) == 28
    assert count(True, amp=True) == 32
    assert count(False, amp=True) == 48
    assert count(True, dtype="bf16", master="fp32") == 28
    assert count(True, dtype="bf16", master="remainder") == 26
    assert count(True, dtype="bf16", state_dtype="bf16") == count(False, dtype="bf16") == 14
    assert count(True, dtype="fp64") == 56


def test_mistakes_are_one_sentence(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "optim", "--tensors", "4x4096"])
    assert "is not like 4x[4096,4096]" in capsys.readouterr().err
    code = main(["bench", "optim", *SMALL, "--dtype", "fp16", "--stochastic-rounding"])
    assert code == 1
    assert "stochastic_rounding is for torch.bfloat16" in capsys.readouterr().err
