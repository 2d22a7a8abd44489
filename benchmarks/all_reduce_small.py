"""all_reduce of a message so small that only latency counts, through Python, against Gloo."""

import sys
from collections.abc import Sequence

from benchmarks import collectives, command, ranks
from benchmarks.collectives import Claim
from benchmarks.results import Row, Target

NAME = "all_reduce_small"
NUM_BYTES = 1 << 10
LEAST_SPEED_UP = {2: Target("at least", 30), 4: Target("at least", 50)}
MOST_SECONDS = {2: 8e-6}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=30)
    parser.add_argument("--bytes", type=command.positive, default=NUM_BYTES, help="of the tensor")
    collectives.add_arguments(parser, tensors=[collectives.ORDINARY])
    ranks.add_arguments(parser, world_sizes=(2, 4))
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        claimed = joined.world_size if command.is_default(options, parser) else None
        claims = [
            Claim(
                way,
                collectives.IN_WORDS[kind],
                LEAST_SPEED_UP.get(claimed),
                MOST_SECONDS.get(claimed),
            )
            for kind, way in collectives.our_ways(options).items()
        ]
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        case = collectives.case_of(
            "all_reduce", options, num_bytes=options.bytes, world_size=joined.world_size
        )
        peer = collectives.torch_peer(joined)
        return collectives.measure(joined, timer, case, claims, peer, seed=options.seed)

    return ranks.run(NAME, options, arguments, measure)


if __name__ == "__main__":
    sys.exit(main())
