"""Benchmarks on several ranks: a process starts itself again under torchrun, once per world size.

The rows come back to the first process, which prints and saves them:

    python -m benchmarks.NAME --> torchrun, 2 ranks --> rows --+
                              --> torchrun, 4 ranks --> rows --+--> table, JSON
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

import pyparallel
from benchmarks import ROOT, command
from benchmarks.command import UnusableError
from benchmarks.results import Row, rows_from_json, rows_to_json
from pyparallel.cli.timer import WrongResultError


class ProcessRanks:
    """The ranks of a torchrun job, joined both in a torch process group and in a Context of ours.

    Attributes:
        context: Ours.
        world_size: Number of ranks.
        peer_name: Backend of the torch process group.
    """

    def __init__(self, context: pyparallel.Context, *, peer_name: str) -> None:
        self.context = context
        self.world_size = context.world_size
        self.peer_name = peer_name

    def barrier(self) -> None:
        """Returns when all ranks have called it, within microseconds of each other."""
        self.context.communicator.barrier().wait()

    def slowest(self, seconds: Sequence[float]) -> list[float]:
        """The largest of all ranks' values, place by place."""
        values = torch.tensor(seconds, dtype=torch.float64, device=self.context.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return values.tolist()


def add_arguments(parser: argparse.ArgumentParser, *, world_sizes: Sequence[int]) -> None:
    """Adds `--ranks`, and the hidden way on which a rank gives its rows to the first process."""
    parser.add_argument(
        "--ranks", type=command.positive, nargs="+", default=list(world_sizes), help="world sizes"
    )
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)


def run(
    name: str,
    options: argparse.Namespace,
    arguments: Sequence[str],
    measure: Callable[[ProcessRanks], list[Row]],
) -> int:
    """Like command.run, on the ranks of this torchrun job or else of one job per world size.

    Args:
        name: Of the benchmark's module.
        options: What `arguments` say.
        arguments: Handed on to the ranks.
        measure: Gives the rows of one world size; called on every rank.
    """
    options.threads = options.threads or 1
    if "RANK" not in os.environ:
        return command.run(name, options, lambda: _launch_all(name, options, arguments))
    try:
        with _joined(options) as ranks:
            rows = measure(ranks)
    except WrongResultError as error:
        print(f"benchmarks.{name} on rank {os.environ['RANK']}: {error}", file=sys.stderr)
        return 1
    if ranks.context.rank == 0 and options.rows is None:
        command.finish(name, options, rows)
    elif ranks.context.rank == 0:
        options.rows.write_text(rows_to_json(rows))
    return 0


def _launch_all(name: str, options: argparse.Namespace, arguments: Sequence[str]) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for world_size in options.ranks:
            if options.device == "cuda" and world_size > torch.cuda.device_count():
                raise UnusableError(
                    f"{world_size} ranks need {world_size} GPUs, but there are "
                    f"{torch.cuda.device_count()}: choose --ranks"
                )
            path = Path(folder) / f"{world_size}.json"
            _launch(name, world_size, [*arguments, "--rows", str(path)], options.threads)
            rows += rows_from_json(path.read_text())
    return rows


def _launch(name: str, world_size: int, arguments: Sequence[str], threads: int) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    module = ["--nproc-per-node", str(world_size), "-m", f"benchmarks.{name}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    finished = subprocess.run([*torchrun, *module], cwd=ROOT, env=environment, check=False)
    if finished.returncode != 0:
        raise UnusableError(f"{world_size} ranks ended with exit code {finished.returncode}")


@contextlib.contextmanager
def _joined(options: argparse.Namespace) -> Iterator[ProcessRanks]:
    torch.set_num_threads(options.threads)
    if options.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        device = torch.device("cpu")
        dist.init_process_group("gloo")
    context = pyparallel.init(device=device)
    yield ProcessRanks(context, peer_name="NCCL" if device.type == "cuda" else "Gloo")
    dist.barrier()
    context.close()
    dist.destroy_process_group()
