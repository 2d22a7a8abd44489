"""A million events of real models replayed: our pool's policy against those of its peers."""

import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks import ROOT, command
from benchmarks.results import Row
from pyparallel.cli.timer import Contestant
from pyparallel.memory import replay, traces
from pyparallel.memory.traces import FREE, Trace

NAME = "memory_replay"
EVENTS = 1_000_000
MOST_SECONDS = 2.0
OURS = "pyparallel"
PEERS = ("torch", "torch-expandable", "rmm", "rmm-arena")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    parser = command.parser(NAME, __doc__, rounds=10)
    parser.add_argument("--events", type=command.positive, default=EVENTS, help="of the trace")
    options = parser.parse_args(arguments)
    options.threads = 1  # a replay has no more
    default = command.is_default(options, parser)

    def rows() -> Iterator[Row]:
        timer = command.timer(options)
        trace = one_trace(options.events)
        contestants = [Contestant(policy, player(trace, policy)) for policy in (OURS, *PEERS)]
        with command.progress(f"{options.events:,} events", timer) as advance:
            measured = timer.compare(contestants, verify=lambda: None, advance=advance)
        for peer in PEERS:
            yield Row(
                label=f"{options.events:,} allocations and frees of ten models, replayed",
                peer_name=f"{peer}'s policy",
                **measured.against(peer, ours=OURS),
                most_seconds=MOST_SECONDS if default else None,
            )

    return command.run(NAME, options, lambda: list(rows()))


def player(trace: Trace, policy: str) -> Callable[[], object]:
    """Replays the trace through a new pool of that policy."""
    return lambda: replay.replay(trace, policy)


def one_trace(events: int) -> Trace:
    """The committed traces one after the other, again and again; each ends with nothing live."""
    paths = sorted((ROOT / "tests" / "memory" / "traces").glob("*.npz"))
    whole = [ended(traces.load(path)) for path in paths]
    blocks, sizes, streams, before, length = [], [], [], 0, 0
    while length < events:
        for trace in whole:
            blocks.append(trace.block + before)
            sizes.append(trace.num_bytes)
            streams.append(trace.stream)
            before += int((trace.num_bytes != FREE).sum())
            length += len(trace)
    first = slice(events)
    return Trace(
        np.concatenate(blocks)[first], np.concatenate(sizes)[first], np.concatenate(streams)[first]
    )


def ended(trace: Trace) -> Trace:
    """The trace, and frees of what is live at its end."""
    is_free = trace.num_bytes == FREE
    left = np.setdiff1d(trace.block[~is_free], trace.block[is_free])
    return Trace(
        np.concatenate([trace.block, left]),
        np.concatenate([trace.num_bytes, np.full(len(left), FREE)]),
        np.concatenate([trace.stream, np.zeros(len(left), np.uint64)]),
    )


if __name__ == "__main__":
    sys.exit(main())
