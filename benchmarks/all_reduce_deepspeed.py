"""all_reduce of a middling tensor, against DeepSpeed's through shared memory where it is installed.

See benchmarks/deepspeed_peer.py for how to install it. Without it the row has our time alone.
"""

import sys
from collections.abc import Sequence

from benchmarks import collectives, command, deepspeed_peer, ranks
from benchmarks.collectives import Claim
from benchmarks.results import Row, Target

NAME = "all_reduce_deepspeed"
NUM_BYTES = 100 << 10
TARGET = Target("at least", 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=30)
    parser.add_argument("--bytes", type=command.positive, default=NUM_BYTES, help="of the tensor")
    collectives.add_arguments(parser, tensors=[collectives.ORDINARY, collectives.SHARED])
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        target = TARGET if command.is_default(options, parser) and joined.world_size == 2 else None
        claims = [
            Claim(way, collectives.IN_WORDS[kind], target)
            for kind, way in collectives.our_ways(options).items()
        ]
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        case = collectives.case_of(
            "all_reduce", options, num_bytes=options.bytes, world_size=joined.world_size
        )
        peer = deepspeed_peer.way(joined, case.dtype)
        return collectives.measure(joined, timer, case, claims, peer, seed=options.seed)

    return ranks.run(NAME, options, arguments, measure)


if __name__ == "__main__":
    sys.exit(main())
