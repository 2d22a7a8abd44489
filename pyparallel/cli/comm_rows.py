"""One case of `bench comm`: its ways measured by turns, and a row of numbers for each of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from pyparallel.cli.arguments import dtype_name
from pyparallel.cli.collectives import Case
from pyparallel.cli.job import ProcessRanks
from pyparallel.cli.timer import Measurement, Timer, WrongResultError
from pyparallel.cli.ways import Entry, Way, enter


@dataclass(frozen=True)
class Row:
    """One contestant's numbers.

    Attributes:
        ranks: number of them.
        collective: operation.
        contestant: ours, and which way; or torch.distributed's backend.
        num_bytes: of the larger buffer of a rank, as nccl-tests counts.
        elements: of the same buffer.
        dtype: of the elements.
        op: how they are combined; "" where they only move.
        microseconds: median of the rounds, each of its slowest rank.
        low: begin of the middle 80 % of the rounds, in microseconds.
        high: end of the same.
        algbw: GB/s.
        busbw: GB/s.
        ratio: the first peer's time over this one's, median of the rounds' ratios; None without.
        errors: wrong elements. A run that has any ends with the first of them instead of numbers.
    """

    ranks: int
    collective: str
    contestant: str
    num_bytes: int
    elements: int
    dtype: str
    op: str
    microseconds: float
    low: float
    high: float
    algbw: float
    busbw: float
    ratio: float | None
    errors: int = 0


def measure(
    case: Case,
    ways: Iterable[Way],
    timer: Timer,
    ranks: ProcessRanks,
    *,
    seed: int,
    advance: Callable[[], None],
    say: Callable[[str], None],
) -> list[Row]:
    """Measures a case; every rank's result is checked before the first round and after the last.

    Args:
        case: what is done.
        ways: how, at least one of ours; peers that cannot do it are left out, and that is said.
        timer: of these ranks.
        ranks: who does it.
        seed: of what is checked.
        advance: called after every round.
        say: prints a line.

    Raises:
        WrongResultError: with the first wrong element.
    """
    entries: dict[Way, Entry] = {}
    for way in ways:
        entry = enter(way, case, ranks, seed=seed)
        problem = refusal(entry, ranks) if way.is_peer else None
        if problem is None:
            entries[way] = entry
        else:
            say(f"{way.name} takes no part in {case}: {problem}")

    def verify() -> None:
        for entry in entries.values():
            entry.verify()

    measurement = timer.compare(
        [entry.contestant for entry in entries.values()], verify=verify, advance=advance
    )
    try:
        verify()
    except AssertionError as error:
        raise WrongResultError(f"after the last round: {error}") from error
    peer = next((way.name for way in entries if way.is_peer), None)
    return [_row(case, way.name, peer, measurement) for way in entries]


def refusal(entry: Entry, ranks: ProcessRanks) -> str | None:
    """Why a peer cannot run an operation, or None if all ranks' peers can."""
    problem = None
    try:
        entry.contestant.run()
    except (RuntimeError, ValueError, TypeError) as error:
        problem = str(error).partition("\n")[0]
    if ranks.slowest([float(problem is not None)])[0]:
        return problem or "another rank cannot"
    return None


def _row(case: Case, name: str, peer: str | None, measurement: Measurement) -> Row:
    time = measurement.time(name)
    return Row(
        ranks=case.world_size,
        collective=case.collective.name,
        contestant=name,
        num_bytes=case.num_bytes,
        elements=case.numel,
        dtype=dtype_name(case.dtype),
        op=case.op if case.collective.combines else "",
        microseconds=time.median * 1e6,
        low=time.p10 * 1e6,
        high=time.p90 * 1e6,
        algbw=case.algbw(time.median) / 1e9,
        busbw=case.busbw(time.median) / 1e9,
        ratio=None if peer is None else measurement.ratio(peer, name).median,
    )


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal, with a line between cases."""
    made = Table()
    for header in ("collective", "ranks", "contestant", "dtype", "op"):
        made.add_column(header, no_wrap=True)
    numbers = ("bytes", "elements", "us", "middle 80 %", "algbw GB/s", "busbw GB/s", "ratio")
    for header in (*numbers, "errors"):
        made.add_column(header, justify="right")

    def case(row: Row) -> tuple[object, ...]:
        return row.ranks, row.collective, row.num_bytes, row.dtype, row.op

    for _, same in itertools.groupby(rows, case):
        for row in same:
            made.add_row(
                row.collective,
                str(row.ranks),
                row.contestant,
                row.dtype,
                row.op,
                str(row.num_bytes),
                str(row.elements),
                _three_digits(row.microseconds),
                f"{_three_digits(row.low)} to {_three_digits(row.high)}",
                f"{row.algbw:.3g}",
                f"{row.busbw:.3g}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                str(row.errors),
            )
        made.add_section()
    return made


def _three_digits(number: float) -> str:
    """At least three, and no exponent."""
    return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f}"
