"""`python -m pyparallel memory`: chooses what is done with a pool's recorded history."""

import importlib
import sys
from collections.abc import Sequence

# What: the module with its main(arguments) -> exit code, and one line of help.
ACTIONS = {
    "report": (
        "pyparallel.cli.memory_report",
        "who holds the memory of a snapshot, and what is lost between",
    ),
    "replay": (
        "pyparallel.cli.memory_replay",
        "what other allocators, and smaller devices, would have made of a recorded history",
    ),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the action; 2 and a sentence if it does not exist."""
    if not arguments or arguments[0] not in ACTIONS:
        asked_for_help = arguments and arguments[0] in ("-h", "--help")
        print(_help(), file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    what, *rest = arguments
    code: int = importlib.import_module(ACTIONS[what][0]).main(rest)
    return code


def _help() -> str:
    lines = [f"  {what:6}  {line}" for what, (_, line) in ACTIONS.items()]
    return "\n".join(
        ("usage: python -m pyparallel memory {" + ",".join(ACTIONS) + "} ...", "", *lines)
    )
