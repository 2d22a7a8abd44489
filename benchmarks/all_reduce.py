"""all_reduce of large tensors, ordinary ones and those of communicator.empty, against Gloo."""

import sys
from collections.abc import Sequence

from benchmarks import collectives, command, ranks
from benchmarks.collectives import Claim
from benchmarks.results import Row, Target
from pyparallel.cli.timer import COPY_BYTES

NAME = "all_reduce"
MEBIBYTES = {2: [1, 25, 100], 4: [25]}
LEAST_SPEED_UP = {
    2: {collectives.ORDINARY: 3, collectives.SHARED: 6},
    4: {collectives.ORDINARY: 2.5, collectives.SHARED: 6},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=36)
    parser.add_argument(
        "--mebibytes",
        type=command.positive,
        nargs="+",
        help=f"sizes of the tensors (by world size: {MEBIBYTES})",
    )
    collectives.add_arguments(parser, tensors=[collectives.ORDINARY, collectives.SHARED])
    ranks.add_arguments(parser, world_sizes=(2, 4))
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        speed_ups = {}
        if command.is_default(options, parser):
            speed_ups = LEAST_SPEED_UP.get(joined.world_size, {})
        targets = {kind: Target("at least", ratio) for kind, ratio in speed_ups.items()}
        claims = [
            Claim(way, collectives.IN_WORDS[kind], targets.get(kind))
            for kind, way in collectives.our_ways(options).items()
        ]
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        rows: list[Row] = []
        for mebibytes in options.mebibytes or MEBIBYTES.get(joined.world_size, [25]):
            rows += collectives.measure(
                joined,
                timer,
                collectives.case_of(
                    "all_reduce", options, num_bytes=mebibytes << 20, world_size=joined.world_size
                ),
                claims,
                collectives.torch_peer(joined),
                seed=options.seed,
                copied_bytes=COPY_BYTES,
            )
        return rows

    return ranks.run(NAME, options, arguments, measure)


if __name__ == "__main__":
    sys.exit(main())
