"""torch.distributed.all_reduce over the backend "pyparallel" and over "gloo", by turns in a job."""

import sys
from collections.abc import Sequence

from benchmarks import collectives, command, ranks
from benchmarks.collectives import Claim
from benchmarks.results import Row, Target
from pyparallel.cli.ways import torch_way

NAME = "dist_all_reduce"
BACKEND = "pyparallel"
LEAST_SPEED_UP = {1 << 10: 10, 25 << 20: 3}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=30)
    parser.add_argument(
        "--bytes", type=command.positive, nargs="+", default=list(LEAST_SPEED_UP), help="sizes"
    )
    parser.add_argument("--dtype", choices=command.DTYPES, default="fp32")
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        claimed = command.is_default(options, parser) and joined.world_size == 2
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        rows: list[Row] = []
        for num_bytes in options.bytes:
            target = Target("at least", LEAST_SPEED_UP[num_bytes]) if claimed else None
            claim = Claim(torch_way("pyparallel", BACKEND), "through torch.distributed", target)
            case = collectives.case_of(
                "all_reduce", options, num_bytes=num_bytes, world_size=joined.world_size
            )
            peer = collectives.torch_peer(joined)
            rows += collectives.measure(joined, timer, case, [claim], peer, seed=options.seed)
        return rows

    return ranks.run(NAME, options, arguments, measure, backends=[BACKEND])


if __name__ == "__main__":
    sys.exit(main())
