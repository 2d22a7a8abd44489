"""What the benchmarks' command lines share: options, progress line, final table, JSON."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from benchmarks.report import HEADER, cells, notes
from benchmarks.results import Result, Row
from pyparallel.cli.arguments import DTYPES, TensorList, positive, tensor_list
from pyparallel.cli.job import UnusableError
from pyparallel.cli.timer import OneRank, Ranks, Timer, WrongResultError

WIDTH_OF_FILES = 160
__all__ = ["DTYPES", "TensorList", "positive", "tensor_list"]  # for the benchmarks
# Options that say where and how often to measure, not what: any value keeps a row's target.
_HOW = ("json", "rounds", "seed", "rows", "ranks", "threads")


def parser(name: str, description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have.

    Args:
        name: Of the benchmark's module.
        description: Of the benchmark.
        rounds: Default of `--rounds`.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    made.add_argument("--json", type=Path, metavar="DIR", help="folder to save the result in")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--rounds", type=positive, default=rounds, help="timed rounds")
    made.add_argument("--threads", type=positive, help="of a process; 1 per rank")
    made.add_argument("--seed", type=int, default=0, help="of the data")
    return made


def is_default(options: argparse.Namespace, made_by: argparse.ArgumentParser) -> bool:
    """Whether the options measure what the row's target is meant for."""
    given = {name: value for name, value in vars(options).items() if name not in _HOW}
    return all(value == made_by.get_default(name) for name, value in given.items())


def run(name: str, options: argparse.Namespace, measure: Callable[[], list[Row]]) -> int:
    """Measures, prints and saves; 1 and a sentence if there is nothing to print.

    Args:
        name: Of the benchmark.
        options: What `parser` read.
        measure: Gives the rows.
    """
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise UnusableError("--device cuda: torch sees no GPU here")
        rows = measure()
    except (WrongResultError, UnusableError) as error:
        print(f"benchmarks.{name}: {error}", file=sys.stderr)
        return 1
    finish(name, options, rows)
    return 0


def finish(name: str, options: argparse.Namespace, rows: list[Row]) -> None:
    """Prints the table and saves the result where `--json` says."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_FILES
    console.print(table(name, rows))
    for line in notes(rows):
        console.print(line, markup=False)
    if options.json is not None:
        result = Result.of(name, rows, as_json(options))
        console.print(f"saved {result.save(options.json)}", markup=False)


def as_json(options: argparse.Namespace) -> dict[str, object]:
    """The options that shape a result, as JSON can hold them."""
    given = {name: value for name, value in vars(options).items() if name not in ("json", "rows")}
    return {
        name: str(value) if isinstance(value, TensorList) else value
        for name, value in given.items()
    }


def table(title: str, rows: Sequence[Row]) -> Table:
    """The rows for a terminal; a missed target is red."""
    made = Table(*HEADER, title=title)
    for row in rows:
        made.add_row(*map(escape, cells(row)), style="" if all(row.claims.values()) else "red")
    return made


def timer(
    options: argparse.Namespace, *, ranks: Ranks | None = None, round_seconds: float = 0.0
) -> Timer:
    """The timer that the options describe."""
    return Timer(
        rounds=options.rounds,
        device=options.device,
        ranks=OneRank() if ranks is None else ranks,
        round_seconds=round_seconds,
    )


@contextlib.contextmanager
def progress(label: str, timer: Timer, *, visible: bool = True) -> Iterator[Callable[[], None]]:
    """A progress line on stderr; what it yields is called after every round.

    It is drawn in that call and by no thread, so that it takes no time from what is measured.
    """
    console = Console(stderr=True, quiet=not visible, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    if not console.is_terminal:
        console.print(f"measuring {label}, {timer.rounds} rounds", markup=False, soft_wrap=True)
        yield lambda: None
        return
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as line:
        task = line.add_task(label, total=timer.warm_up + timer.rounds)
        line.refresh()

        def advance() -> None:
            line.advance(task)
            line.refresh()

        yield advance
