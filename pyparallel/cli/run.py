"""`python -m pyparallel run`: torchrun with good defaults, and errors in one sentence.

Options, rendezvous, restarts and processes are torchrun's; this fills in what was not given.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyparallel.cli import machine
from pyparallel.cli.arguments import SentenceParser

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

PROG = "python -m pyparallel run"


def main(arguments: Sequence[str]) -> int:
    """Starts a script on several processes and waits for it.

    Args:
        arguments: Options of `run` and of torchrun, the script, and the script's own arguments.

    Returns:
        0, or the exit code of the rank that failed first (128 + signal for a killed one, like a
        shell); 2 for a command line that cannot be understood.
    """
    options = parse(arguments)
    os.environ.update(environment(options))
    return _launch(options)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line with torchrun's own parser and fills in this machine's defaults.

    Returns:
        torchrun's options, with `nproc_per_node` as an int, and `threads`, None unless given.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.nproc_per_node = _processes(options)
    except ValueError as error:
        parser.error(str(error))
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be at least 1, but is {options.threads}")
    script = Path(options.training_script)
    if not (options.module or options.no_python) and not script.is_file():
        parser.error(f"there is no script {script} (in {Path.cwd()})")
    rendezvous = ("nnodes", "rdzv_backend", "rdzv_endpoint", "master_port", "node_rank")
    if all(getattr(options, name) == parser.get_default(name) for name in rendezvous):
        options.standalone = True
    return options


def environment(options: argparse.Namespace) -> dict[str, str]:
    """The environment variables to add: OMP_NUM_THREADS, unless set or chosen by `--threads`."""
    if options.threads is not None:
        return {"OMP_NUM_THREADS": str(options.threads)}
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, machine.usable_cores() // options.nproc_per_node))}


def first_failure(failures: Mapping[int, "ProcessFailure"]) -> tuple[int, int]:
    """Rank and exit code (negative for a signal) of the failure that brought the others down.

    Times are whole seconds. Within one, a killed process comes before those that noticed its loss,
    and SIGTERM, by which torchrun stops the rest, comes last.
    """
    rank = min(
        failures,
        key=lambda rank: (
            failures[rank].timestamp,
            failures[rank].exitcode == -signal.SIGTERM,
            failures[rank].exitcode >= 0,
            rank,
        ),
    )
    return rank, failures[rank].exitcode


def _parser() -> SentenceParser:
    from torch.distributed.run import get_args_parser

    torchrun = get_args_parser()
    for action in torchrun._actions:
        action.help = argparse.SUPPRESS
        if action.dest == "training_script":
            action.metavar, action.help = "script.py", "the script, or the module's name after -m"
        elif action.dest == "training_script_args":
            action.metavar, action.help = "arguments", "all that follows is the script's own"
            action.required = False
    parser = SentenceParser(
        prog=PROG,
        usage=f"{PROG} [-n N] [--threads T] [torchrun's options] script.py [script's arguments]",
        description="Starts a training script on several processes: torchrun with good defaults.",
        epilog="Every option of torchrun works too (-m, --nnodes, --rdzv-endpoint ...): "
        "see torchrun --help. Alone on a host it needs none.",
        parents=[torchrun],
        conflict_handler="resolve",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-n",
        "--nproc-per-node",
        "--nproc_per_node",
        metavar="N",
        default=os.environ.get("PET_NPROC_PER_NODE"),
        help="processes on this host; default: one per GPU, or cores divided by T without one",
    )
    parser.add_argument(
        "--threads",
        metavar="T",
        type=int,
        help="OMP_NUM_THREADS of a process; default: OMP_NUM_THREADS, or cores divided by N",
    )
    parser.add_argument("-h", "--help", action="help", help="show this text")
    return parser


def _processes(options: argparse.Namespace) -> int:
    from torch.distributed.run import determine_local_world_size

    if options.nproc_per_node is None:
        threads = max(1, options.threads or 1)
        return len(machine.gpus()) or max(1, machine.usable_cores() // threads)
    number: int = determine_local_world_size(options.nproc_per_node)
    if number < 1:
        raise ValueError(f"-n must be at least 1, but is {number}")
    return number


def _launch(options: argparse.Namespace) -> int:
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    _quieten_torchrun()
    launch: Callable[[argparse.Namespace], None] = run.run
    try:
        launch(options)
    except ChildFailedError as error:
        rank, code = first_failure(error.failures)
        return _report(f"rank {rank}", code)
    except SignalException as error:
        return _report("the launcher", -error.sigval)
    except ValueError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    return 0


def _report(who: str, code: int) -> int:
    if code >= 0:
        print(f"{PROG}: {who} ended with exit code {code}", file=sys.stderr)
        return code
    print(f"{PROG}: {who} was stopped by {signal.Signals(-code).name}", file=sys.stderr)
    return 128 - code


def _quieten_torchrun() -> None:
    """Leaves the report of a failure to this module, unless the user asked for torchrun's log."""
    if "LOGLEVEL" in os.environ:
        return
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
