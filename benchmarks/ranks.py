"""Benchmarks on several ranks: one torchrun job per world size; see pyparallel.cli.job."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import ROOT, command
from benchmarks.results import Row, rows_from_json, rows_to_json
from pyparallel.cli import job
from pyparallel.cli.job import ProcessRanks
from pyparallel.cli.timer import WrongResultError

__all__ = ["ProcessRanks"]  # for the benchmarks


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
    *,
    backends: Sequence[str] = (),
) -> int:
    """Like command.run, on the ranks of this torchrun job or else of one job per world size.

    Args:
        name: Of the benchmark's module.
        options: What `arguments` say.
        arguments: Handed on to the ranks.
        measure: Gives the rows of one world size; called on every rank.
        backends: Of process groups beside the default one.
    """
    options.threads = options.threads or 1
    if not job.is_rank():
        return command.run(name, options, lambda: _launch_all(name, options, arguments))
    try:
        with job.joined(device=options.device, threads=options.threads, backends=backends) as ranks:
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
    results = job.launch_all(
        [f"benchmarks.{name}", *arguments],
        options.ranks,
        device=options.device,
        threads=options.threads,
        folder=ROOT,
    )
    return [row for text in results for row in rows_from_json(text)]
