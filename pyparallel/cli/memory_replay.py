"""`python -m pyparallel memory replay`: what allocators would have made of recorded histories."""

import argparse
from collections.abc import Sequence

from pyparallel.cli.arguments import SentenceParser
from pyparallel.memory import replay


def main(arguments: Sequence[str]) -> int:
    """Prints a table per trace; 2 and a sentence for a file that is no trace."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        replay.show(
            options.trace,
            options.policy or replay.POLICIES,
            device=options.device,
            as_json=options.json,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def _parser() -> SentenceParser:
    parser = SentenceParser(
        prog="python -m pyparallel memory replay",
        description="Replays recorded allocations through allocators' policies, on no device: "
        "utilisation, the smallest device that would have fitted, ns per event.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "trace",
        nargs="+",
        help="a pickle of torch.cuda.memory._snapshot() or of a pool's, a CSV of RMM's "
        "logging_resource_adaptor, or an .npz of pyparallel.memory.traces",
    )
    parser.add_argument(
        "--policy", action="append", choices=replay.POLICIES, help="may be repeated; all of them"
    )
    parser.add_argument("--device", type=int, default=0, help="whose history, of a snapshot")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser
