"""Chooses the command; a command's module, and what that imports, is loaded when it is called."""

import importlib
import sys
from collections.abc import Sequence

# Command: the module with its main(arguments) -> exit code, and one line of help.
COMMANDS = {
    "run": ("pyparallel.cli.run", "start a training script on several processes (torchrun)"),
    "bench": (
        "pyparallel.cli.bench",
        "measure optimizers and collectives beside torch's and others",
    ),
    "memory": ("pyparallel.cli.memory", "look into the snapshots of a memory pool"),
    "env": ("pyparallel.cli.env", "show what this build, this torch and this machine can do"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `python -m pyparallel`.

    Args:
        arguments: What follows `python -m pyparallel`; the process's own arguments by default.

    Returns:
        The exit code: 2 for a command line that cannot be understood, else the command's own.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(_help(), file=sys.stderr)
        return 2
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"pyparallel: there is no command {name!r}, only {known}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    code: int = module.main(rest)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: python -m pyparallel COMMAND ...",
            "",
            *lines,
            "",
            "More on a command: python -m pyparallel COMMAND --help",
        )
    )
