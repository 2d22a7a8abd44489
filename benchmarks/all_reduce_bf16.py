"""all_reduce of bfloat16 against float32 with as many elements, both through our communicator."""

import argparse
import sys
from collections.abc import Sequence

import torch

from benchmarks import collectives, command, ranks
from benchmarks.results import Row, Target
from pyparallel.cli.collectives import Case
from pyparallel.cli.timer import Timer
from pyparallel.cli.ways import enter, our_way

NAME = "all_reduce_bf16"
MEBIBYTES = 25
TARGET = Target("at most", 0.7)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=40)
    parser.add_argument(
        "--mebibytes", type=command.positive, default=MEBIBYTES, help="of the float32 tensor"
    )
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        target = TARGET if command.is_default(options, parser) and joined.world_size == 2 else None
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        return compare(joined, timer, options, target=target)

    return ranks.run(NAME, options, arguments, measure)


def compare(
    joined: ranks.ProcessRanks, timer: Timer, options: argparse.Namespace, *, target: Target | None
) -> list[Row]:
    """A row for each kind of tensor."""
    num_bytes = options.mebibytes << 20
    cases = {
        dtype: Case.of_bytes(
            "all_reduce", num_bytes * dtype.itemsize // 4, dtype, "sum", joined.world_size
        )
        for dtype in (torch.bfloat16, torch.float32)
    }
    narrow, wide = cases.values()
    entries = {
        (kind, case.dtype): enter(
            our_way(f"{case.dtype}, {kind}", shared=kind == collectives.SHARED),
            case,
            joined,
            seed=options.seed,
        )
        for kind in (collectives.ORDINARY, collectives.SHARED)
        for case in (narrow, wide)
    }

    def verify() -> None:
        for entry in entries.values():
            entry.verify()

    with command.progress(str(narrow), timer, visible=joined.context.rank == 0) as advance:
        contestants = [entry.contestant for entry in entries.values()]
        measurement = timer.compare(contestants, verify=verify, advance=advance)
    rows = []
    for kind in (collectives.ORDINARY, collectives.SHARED):
        ours, peer = (entries[kind, case.dtype].contestant.name for case in (narrow, wide))
        numbers = measurement.against(peer, ours=ours) | {"ratio": measurement.ratio(ours, peer)}
        label = f"{narrow}, {collectives.IN_WORDS[kind]}"
        rows.append(Row(label=label, peer_name="ours in fp32", target=target, **numbers))
    return rows


if __name__ == "__main__":
    sys.exit(main())
