"""`python -m pyparallel memory`: the choice of an action."""

import pytest

from pyparallel.cli import main


def test_help_names_every_action(capsys):
    assert main(["memory", "--help"]) == 0
    assert "report" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["rewrite"]])
def test_an_unknown_action_shows_the_help_and_fails(arguments, capsys):
    assert main(["memory", *arguments]) == 2
    assert "usage" in capsys.readouterr().err
