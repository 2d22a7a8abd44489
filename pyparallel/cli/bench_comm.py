"""`python -m pyparallel bench comm`: collectives beside torch.distributed's, by turns in one run.

Columns and sizes are those of nccl-tests; every row's result was checked exactly in the same run,
before its rounds and after them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from rich.progress import Progress

from pyparallel.cli import job
from pyparallel.cli.arguments import ALL_DTYPES, SentenceParser, num_bytes, positive
from pyparallel.cli.collectives import COLLECTIVES, REDUCTIONS, Case
from pyparallel.cli.comm_rows import Row, measure, table
from pyparallel.cli.timer import Timer, WrongResultError
from pyparallel.cli.ways import Way, our_way, torch_way
from pyparallel.comm.communicator import Algorithm
from pyparallel.errors import OutOfMemoryError

PROG = "python -m pyparallel bench comm"
ORDINARY, SHARED = "ordinary", "shared"
WIDTH_OF_FILES = 180


def main(arguments: Sequence[str]) -> int:
    """Runs the command, or its part in a rank; 1 and a sentence if there is nothing to print."""
    options = _options(arguments)
    try:
        if job.is_rank():
            return _run_rank(options)
        if options.device == "cuda" and not torch.cuda.is_available():
            raise job.UnusableError("--device cuda: torch sees no GPU here")
        texts = job.launch_all(
            ["pyparallel", "bench", "comm", *arguments],
            options.ranks,
            device=options.device,
            threads=options.threads,
        )
        rows = [Row(**row) for text in texts for row in json.loads(text)]
    except job.UnusableError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    _finish(rows, options)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = SentenceParser(
        prog=PROG, description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    everything = list(COLLECTIVES)
    named = f"all, unless given: {', '.join(everything)}"
    add("--collective", nargs="+", choices=everything, metavar="NAME", help=named)
    add("-b", "--begin", type=num_bytes, default="1K", help="smallest bytes: 1000, 8K or 25M")
    add("-e", "--end", type=num_bytes, default="32M", help="largest bytes")
    add("-f", "--factor", type=positive, default=32, help="from one size to the next")
    add(
        "--dtype",
        nargs="+",
        choices=ALL_DTYPES,
        metavar="DTYPE",
        default=["fp32"],
        help=f"of {', '.join(ALL_DTYPES)}",
    )
    add(
        "--op",
        nargs="+",
        choices=REDUCTIONS,
        metavar="OP",
        default=["sum"],
        help=f"of {', '.join(REDUCTIONS)}",
    )
    algorithms = get_args(Algorithm)
    add("--algorithm", nargs="+", choices=algorithms, default=["auto"], help="of ours")
    kinds = (ORDINARY, SHARED)
    add("--tensors", nargs="+", choices=kinds, help="of ours; on a CPU both, unless given")
    backends = "of torch.distributed; the first is the peer: gloo, unless given, and nccl on CUDA"
    add("--backend", nargs="+", choices=job.BACKENDS, help=backends)
    add("--ranks", type=positive, nargs="+", default=[2], help="world sizes, one job for each")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="of the tensors")
    add("--rounds", type=positive, default=20, help="timed rounds")
    add("--milliseconds", type=positive, default=20, help="what shorter rounds are filled up to")
    add("--threads", type=positive, default=1, help="of a rank")
    add("--seed", type=int, default=0, help="of the data that results are checked with")
    add("--json", type=Path, metavar="FILE", help="where to save the numbers")
    add("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.collective = options.collective or everything
    options.backend = options.backend or [job.default_backend(options.device)]
    on_gpu = options.device == "cuda"
    options.tensors = options.tensors or ([ORDINARY] if on_gpu else [ORDINARY, SHARED])
    _check(parser, options)
    return options


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuses what does not go together."""
    if options.end < options.begin:
        parser.error(f"--end must be at least --begin, {options.begin}, but is {options.end}")
    if options.factor < 2:
        parser.error(f"--factor must be at least 2, but is {options.factor}")
    if min(options.ranks) < 2:
        parser.error(f"--ranks must be at least 2, but is {min(options.ranks)}")
    wrong = "gloo" if options.device == "cuda" else "nccl"
    if wrong in options.backend:
        parser.error(f"--backend {wrong} is not for tensors on --device {options.device}")
    integers = [name for name in options.dtype if not ALL_DTYPES[name].is_floating_point]
    if integers and "mean" in options.op:
        parser.error(f"--op mean is for floating dtypes, but --dtype has {integers[0]}")


def _run_rank(options: argparse.Namespace) -> int:
    try:
        with job.joined(
            device=options.device, threads=options.threads, backends=options.backend
        ) as ranks:
            rows = _measure_all(options, ranks)
    except (WrongResultError, OutOfMemoryError) as error:
        print(f"{PROG} on rank {os.environ['RANK']}: {error}", file=sys.stderr)
        return 1
    if ranks.context.rank == 0 and options.rows is not None:
        options.rows.write_text(json.dumps([asdict(row) for row in rows]))
    elif ranks.context.rank == 0:
        _finish(rows, options)
    return 0


def _measure_all(options: argparse.Namespace, ranks: job.ProcessRanks) -> list[Row]:
    timer = Timer(
        rounds=options.rounds,
        round_seconds=options.milliseconds / 1e3,
        device=options.device,
        ranks=ranks,
    )
    cases = list(_cases(options, ranks.world_size))
    rows: list[Row] = []
    console = Console(stderr=True, quiet=ranks.context.rank != 0)
    # Drawn between the rounds and by no thread, so that it takes no time from what is measured.
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(cases) * (timer.rounds + timer.warm_up))
        for case in cases:
            progress.update(task, description=str(case))
            rows += measure(
                case,
                _ways(case, options),
                timer,
                ranks,
                seed=options.seed,
                advance=lambda: progress.update(task, advance=1, refresh=True),
                say=progress.console.print,
            )
    return rows


def _cases(options: argparse.Namespace, world_size: int) -> Iterator[Case]:
    for name in options.collective:
        # Operations that only move have no operator; any stands for none.
        ops = options.op if COLLECTIVES[name].combines else REDUCTIONS[:1]
        for dtype in options.dtype:
            for op in ops:
                size = options.begin
                while size <= options.end:
                    yield Case.of_bytes(name, size, ALL_DTYPES[dtype], op, world_size)
                    size *= options.factor


def _ways(case: Case, options: argparse.Namespace) -> list[Way]:
    """Ours first, then torch's in the order of --backend."""
    ways = []
    algorithms: list[Algorithm] = options.algorithm if case.collective.chooses else ["auto"]
    for algorithm in algorithms:
        for kind in options.tensors:
            chosen = "" if algorithm == "auto" else f" {algorithm}"
            name = f"pyparallel{chosen}{', shared' if kind == SHARED else ''}"
            ways.append(our_way(name, shared=kind == SHARED, algorithm=algorithm))
    for backend in options.backend:
        for kind in options.tensors if backend == "pyparallel" else [ORDINARY]:
            name = f"torch {backend}{', shared' if kind == SHARED else ''}"
            ways.append(torch_way(name, backend, shared=kind == SHARED))
    return ways


def _finish(rows: Sequence[Row], options: argparse.Namespace) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
