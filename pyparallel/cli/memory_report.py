"""`python -m pyparallel memory report`: a snapshot by call site, its fragmentation, its holes."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pyparallel.cli.arguments import SentenceParser, positive
from pyparallel.memory import summary
from pyparallel.memory.snapshots import load_snapshot
from pyparallel.memory.summary import readable
from pyparallel.memory.timelines import dump_timeline


def main(arguments: Sequence[str]) -> int:
    """Prints the tables; 2 and a sentence for a file that is no snapshot."""
    parser = _parser()
    options = parser.parse_args(arguments)
    console = Console(highlight=False, markup=False)
    try:
        snapshot = load_snapshot(options.file)
        counted = summary.summarize(snapshot, device=options.device)
        console.print(
            _totals(counted, snapshot), _sites(counted, options), _holes(counted, options)
        )
        if options.timeline:
            dump_timeline(snapshot, options.timeline, device=options.device or 0)
            console.print(f"{options.timeline}: what was live when")
    except KeyError as error:
        parser.error(f"{options.file} lacks {error}, which every snapshot has")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def _parser() -> SentenceParser:
    parser = SentenceParser(
        prog="python -m pyparallel memory report",
        description="Shows who holds the memory of a snapshot (pyparallel's or torch's) and what "
        "is lost between the blocks.",
    )
    parser.add_argument("file", type=Path, help="a pickle of dump_snapshot(), ours or torch's")
    parser.add_argument("--timeline", type=Path, help="also draw its events, as .svg or .html")
    parser.add_argument("--device", type=int, help="only its segments; default: of all devices")
    parser.add_argument("--top", type=positive, default=15, help="rows a table (15)")
    parser.add_argument("--frames", type=positive, default=2, help="frames of a call site (2)")
    return parser


def _totals(counted: summary.Summary, snapshot: dict[str, Any]) -> Table:
    table = Table("memory", "bytes", "of reserved", title="held from the upstream")
    for name in ("reserved", "requested", "rounding", "pending", "free"):
        number = getattr(counted, name)
        share = f"{number / counted.reserved:.1%}" if counted.reserved else "-"
        table.add_row(name, readable(number), share)
    table.add_row("largest hole", readable(counted.holes[0] if counted.holes else 0), "")
    table.add_row("fragmentation", f"{counted.fragmentation:.1%}", "1 - largest hole / free")
    table.add_row("segments", str(counted.segments), "")
    events = sum(len(trace) for trace in snapshot.get("device_traces", ()))
    lost = snapshot.get("lost_events", 0)
    table.add_row("events", str(events), f"{lost} more were lost" if lost else "")
    return table


def _sites(counted: summary.Summary, options: argparse.Namespace) -> Table:
    table = Table("call site", "bytes", "blocks", "largest", title="live, by call site")
    for holding in counted.holdings[: options.top]:
        place = "\n".join(map(_short, holding.site[: options.frames])) or summary.UNKNOWN
        table.add_row(
            place, readable(holding.num_bytes), str(holding.blocks), readable(holding.largest)
        )
    rest = counted.holdings[options.top :]
    if rest:
        num_bytes, blocks = sum(h.num_bytes for h in rest), sum(h.blocks for h in rest)
        table.add_row(f"{len(rest)} more", readable(num_bytes), str(blocks), "")
    return table


def _holes(counted: summary.Summary, options: argparse.Namespace) -> Table:
    table = Table("hole", "count", title="largest holes")
    sizes = sorted(Counter(counted.holes).items(), reverse=True)
    for hole, count in sizes[: options.top]:
        table.add_row(readable(hole), str(count))
    rest = sizes[options.top :]
    if rest:
        table.add_row(f"{len(rest)} smaller sizes", str(sum(count for _, count in rest)))
    return table


def _short(frame: str) -> str:
    return frame.rsplit("/", 1)[-1]
