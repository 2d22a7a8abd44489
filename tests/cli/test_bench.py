"""`python -m pyparallel bench`: the choice of what is measured."""

import pytest

from pyparallel.cli import main


def test_help_names_every_bench(capsys):
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "optim" in printed
    assert "comm" in printed


@pytest.mark.parametrize("arguments", [[], ["com"], ["--rounds", "2"]])
def test_anything_else_shows_the_help_and_fails(arguments, capsys):
    assert main(["bench", *arguments]) == 2
    assert "bench {optim,comm}" in capsys.readouterr().err
