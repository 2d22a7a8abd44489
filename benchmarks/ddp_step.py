"""What torch's own DDP takes to communicate over the backend "pyparallel", against over "gloo".

Three copies of one model take turns, step by step, on the same batches; a step is forward, backward
and zero_grad:

    ours   DistributedDataParallel in the process group of "pyparallel"
    peer   DistributedDataParallel in the process group of "gloo"
    bare   the latter under no_sync(): nothing leaves the process

The time of communication is what a step takes longer than the bare one of the same round.
"""

import copy
import sys
from argparse import Namespace
from collections.abc import Sequence

from torch.nn.parallel import DistributedDataParallel

from benchmarks import command, ranks, train_step
from benchmarks.results import Row, Target
from benchmarks.train_step import BARE, OURS, PEER, Training
from pyparallel.cli.job import default_backend

NAME = "ddp_step"
BACKEND = "pyparallel"
TARGET = Target("at most", 0.45)


class Unsynchronised(Training):
    """The gradients stay those of this rank."""

    def forward_backward(self) -> None:
        """Computes the gradients of the next batch."""
        with self.model.no_sync():
            super().forward_backward()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=42)
    train_step.add_arguments(parser)
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        default = command.is_default(options, parser) and joined.world_size == 2
        row = train_step.measure_overhead(
            joined,
            options,
            make_trainings(joined, options),
            peer_name=f"DDP, {joined.peer_name}",
            what="DDP step minus no_sync step",
            target=TARGET if default else None,
        )
        return [row]

    return ranks.run(NAME, options, arguments, measure, backends=[BACKEND])


def make_trainings(joined: ranks.ProcessRanks, options: Namespace) -> dict[str, Training]:
    """Three copies of one model with the same batches and no optimizer."""
    model, batches = train_step.make_model(joined, options)
    peer = joined.groups[default_backend(joined.context.device.type)]
    groups = {OURS: joined.groups[BACKEND], PEER: peer, BARE: peer}
    kinds = {OURS: Training, PEER: Training, BARE: Unsynchronised}
    return {
        name: kinds[name](
            DistributedDataParallel(
                copy.deepcopy(model), process_group=group, gradient_as_bucket_view=True
            ),
            None,
            batches,
        )
        for name, group in groups.items()
    }


if __name__ == "__main__":
    sys.exit(main())
