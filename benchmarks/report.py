"""`python -m benchmarks.report [--check]`: keeps the table of all results in README.md true.

The table stands between two comments; whatever is between them is rewritten from the JSON files.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import RESULTS, ROOT
from benchmarks.results import Result, Row, load_all
from pyparallel.cli.timer import Spread

BEGIN = "<!-- benchmarks:begin -->"
END = "<!-- benchmarks:end -->"
HEADER = ("benchmark", "ours", "peer", "ratio", "target", "GB/s", "% of a copy")
LEGEND = """\
Ours and the peer take turns in the same processes, none always first, on the same threads and data.
Times are medians over the rounds, with their middle 80 % in parentheses, and of the slowest rank.
The ratio says how many times faster ours is or, where the target is "at most", what part ours takes
of the peer's time. GB/s count the memory that the operation must at least read and write, over all
ranks. A copy is torch's of 256 MiB, on the same threads in the same rounds; it also fetches the
memory that it overwrites, so that work in place can be faster."""


class ReadmeError(Exception):
    """README cannot be used or does not say what the results say; the message is one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrites README's table, or compares it with `--check`; 1 and a sentence if that fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare; fail on a difference")
    parser.add_argument("--json", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file of the table")
    options = parser.parse_args(arguments)
    try:
        text = _read(options.readme)
        wanted = with_table(text, load_all(options.json), readme=options.readme)
        if options.check and text != wanted:
            raise ReadmeError(
                f"the table in {options.readme} is not what {options.json} says: "
                "run python -m benchmarks.report"
            )
    except ReadmeError as error:
        print(f"benchmarks.report: {error}", file=sys.stderr)
        return 1
    if text != wanted:
        options.readme.write_text(wanted, encoding="utf-8")
    print(f"the table in {options.readme} is that of {options.json}")
    return 0


def with_table(text: str, results: Sequence[Result], *, readme: Path) -> str:
    """A README's text with the results' table between its two comments.

    Raises:
        ReadmeError: There is not exactly one pair of comments.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ReadmeError(f"{readme} needs the lines {BEGIN} and {END}, in this order, once each")
    return f"{before}{BEGIN}\n{markdown(results)}{END}{after}"


def markdown(results: Sequence[Result]) -> str:
    """Table, origin of the numbers and legend; a sentence when there are no results."""
    if not results:
        return "No results yet: `python -m benchmarks` makes them.\n"
    rows = [cells(row) for result in results for row in result.rows]
    lines = ["| " + " | ".join(line) + " |" for line in (HEADER, ("---",) * len(HEADER), *rows)]
    return "\n".join([*lines, "", *_bullets(results), "", LEGEND, ""])


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells as text, in the order of HEADER."""
    claims = (claim if met else f"{claim} (missed)" for claim, met in row.claims.items())
    speed, fraction = row.bytes_per_second, row.fraction_of_copy
    return (
        row.label,
        format_seconds(row.ours),
        row.peer_name if row.peer is None else f"{format_seconds(row.peer)} {row.peer_name}",
        "-" if row.ratio is None else f"{format_number(row.ratio.median)}x",
        ", ".join(claims) or "-",
        "-" if speed is None else f"{speed / 1e9:.1f}",
        "-" if fraction is None else f"{100 * fraction:.0f} %",
    )


def format_seconds(seconds: Spread) -> str:
    """Median and middle 80 % in the unit that suits the median."""
    units = ((1.0, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns"))
    fitting = (pair for pair in units if abs(seconds.median) * pair[0] >= 1)
    scale, unit = next(fitting, units[-1])
    median, low, high = (
        format_number(value * scale) for value in (seconds.median, seconds.p10, seconds.p90)
    )
    return f"{median} {unit} ({low} to {high})"


def format_number(number: float) -> str:
    """Two decimals, one from ten on, none from a hundred on."""
    return f"{number:.{2 if abs(number) < 10 else 1 if abs(number) < 100 else 0}f}"


def notes(rows: Sequence[Row]) -> list[str]:
    """The details of the rows that have any, a line each."""
    lines = []
    for row in rows:
        details = [f"{name}: {value}" for name, value in row.details.items()]
        lines += [f"{row.label}; {', '.join(details)}"] if details else []
    return lines


def _bullets(results: Sequence[Result]) -> Iterator[str]:
    origins: dict[str, list[str]] = {}
    for result in results:
        yield from (f"- {note}" for note in notes(result.rows))
        origins.setdefault(_origin(result), []).append(Path(result.file_name).stem)
    for origin, names in origins.items():
        which = f"{', '.join(names)}: " if len(origins) > 1 else ""
        yield f"- {which}{origin}"


def _origin(result: Result) -> str:
    machine, versions, commit = result.machine, result.versions, result.commit
    commit_hash = str(commit["hash"])[:12] + (" with changes" if commit["dirty"] else "")
    parts = [
        str(machine["cpu"]),
        f"{machine['cores']} cores",
        f"{machine['memory_gib']:g} GiB",
        *machine["gpus"],
        f"torch {versions['torch']}",
        f"pyparallel {versions['pyparallel']} ({versions['isa']})",
        f"Python {versions['python']}",
        versions["compiler"],
        f"commit {commit_hash}",
        result.date[:10],
    ]
    return ", ".join(part for part in parts if part)


def _read(readme: Path) -> str:
    try:
        return readme.read_text(encoding="utf-8")
    except OSError as error:
        raise ReadmeError(f"cannot read {readme}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
