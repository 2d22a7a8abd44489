"""The command line: `python -m pyparallel COMMAND`, one module per command."""

from pyparallel.cli.commands import main

__all__ = ["main"]
