"""`python -m pyparallel bench`: chooses what is measured."""

import importlib
import sys
from collections.abc import Sequence

# What: the module with its main(arguments) -> exit code, and one line of help.
BENCHES = {
    "optim": ("pyparallel.cli.bench_optim", "an optimizer's step beside torch's and others"),
    "comm": ("pyparallel.cli.bench_comm", "collectives beside torch.distributed's, as nccl-tests"),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; 2 and a sentence if it does not exist."""
    if not arguments or arguments[0] not in BENCHES:
        asked_for_help = arguments and arguments[0] in ("-h", "--help")
        print(_help(), file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    what, *rest = arguments
    code: int = importlib.import_module(BENCHES[what][0]).main(rest)
    return code


def _help() -> str:
    lines = [f"  {what:5}  {line}" for what, (_, line) in BENCHES.items()]
    return "\n".join(
        ("usage: python -m pyparallel bench {" + ",".join(BENCHES) + "} ...", "", *lines)
    )
