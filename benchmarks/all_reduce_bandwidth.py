"""all_reduce of tensors of communicator.empty, against what a core's memory bandwidth allows.

With n ranks and S bytes, each rank reads its part of every rank's tensor, n times S/n, and writes
the sum to all of them, n times S/n: it moves 2 S bytes. The peer is a loop x += y; y = x over two
arrays, which reads both and writes both; every core runs it at once on memory of its own. Blocks
stay in the core's cache between the two statements, so memory is passed over once, and the arrays
are larger than any cache. The loop's time is scaled from the bytes that it moves to 2 S. So the
ratio is the share of that bandwidth that all_reduce reaches; what stays in caches may exceed it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence

import torch

from benchmarks import collectives, command, ranks
from benchmarks.results import Row, Target
from pyparallel.cli.timer import COPY_BYTES, Contestant, Spread, Timer
from pyparallel.cli.ways import enter, our_way

NAME = "all_reduce_bandwidth"
MEBIBYTES = [1, 25, 100]
LOOP = "x += y; y = x on each core"
BLOCK_BYTES = 256 << 10
TARGET = Target("at least", 0.75)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=36)
    parser.add_argument("--mebibytes", type=command.positive, nargs="+", default=MEBIBYTES)
    parser.add_argument("--dtype", choices=command.DTYPES, default="fp32")
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        target = TARGET if command.is_default(options, parser) and joined.world_size == 2 else None
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        return [
            measure_share(joined, timer, options, num_bytes=size << 20, target=target)
            for size in options.mebibytes
        ]

    return ranks.run(NAME, options, arguments, measure)


def measure_share(
    joined: ranks.ProcessRanks,
    timer: Timer,
    options: argparse.Namespace,
    *,
    num_bytes: int,
    target: Target | None,
) -> Row:
    """The row of one size."""
    case = collectives.case_of(
        "all_reduce", options, num_bytes=num_bytes, world_size=joined.world_size
    )
    shared = collectives.IN_WORDS[collectives.SHARED]
    entry = enter(our_way(shared, shared=True), case, joined, seed=options.seed)
    run, moved_bytes = add_loop(COPY_BYTES, device=options.device)
    with command.progress(str(case), timer, visible=joined.context.rank == 0) as advance:
        measurement = timer.compare(
            [entry.contestant, Contestant(LOOP, run)], verify=entry.verify, advance=advance
        )
    ours, loop = measurement.seconds[shared], measurement.seconds[LOOP]
    allowed = [seconds * 2 * case.num_bytes / moved_bytes for seconds in loop]
    return Row(
        label=f"{case}, {shared}",
        peer_name=LOOP,
        ours=Spread.of(ours),
        peer=Spread.of(allowed),
        ratio=Spread.of(bound / own for bound, own in zip(allowed, ours, strict=True)),
        target=target,
        num_bytes=2 * case.num_bytes * joined.world_size,
        details={"a core moves": f"{moved_bytes / Spread.of(loop).median / 1e9:.1f} GB/s"},
    )


def add_loop(num_bytes: int, *, device: str) -> tuple[Callable[[], None], int]:
    """The loop over two arrays of together so many bytes, and how many it moves in a run."""
    numel = BLOCK_BYTES // 4
    blocks = max(1, num_bytes // 2 // BLOCK_BYTES)
    first, second = (torch.zeros(blocks, numel, device=device) for _ in range(2))
    pairs = list(zip(first, second, strict=True))

    def run() -> None:
        for x, y in pairs:
            x.add_(y)
            y.copy_(x)

    return run, 2 * 2 * blocks * BLOCK_BYTES


if __name__ == "__main__":
    sys.exit(main())
