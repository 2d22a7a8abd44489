"""all_reduce of a message so small that only latency counts, through Python, against Gloo.

A round repeats the operation until it lasts 50 ms, so that one preemption does not decide it.
"""

import sys
from collections.abc import Sequence

from benchmarks import collectives, command, ranks
from benchmarks.results import Row, Target

NAME = "all_reduce_small"
NUM_BYTES = 1 << 10
ROUND_SECONDS = 0.05
LEAST_SPEED_UP = {2: 30, 4: 50}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=30)
    parser.add_argument("--bytes", type=command.positive, default=NUM_BYTES, help="of the tensor")
    collectives.add_arguments(parser, tensors=[collectives.ORDINARY])
    ranks.add_arguments(parser, world_sizes=(2, 4))
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        targets = {}
        if command.is_default(options, parser) and joined.world_size in LEAST_SPEED_UP:
            speed_up = LEAST_SPEED_UP[joined.world_size]
            targets[collectives.ORDINARY] = Target("at least", speed_up)
        timer = command.timer(options, ranks=joined, round_seconds=ROUND_SECONDS)
        return collectives.measure(
            joined, timer, options, num_bytes=options.bytes, copied_bytes=0, targets=targets
        )

    return ranks.run(NAME, options, arguments, measure)


if __name__ == "__main__":
    sys.exit(main())
