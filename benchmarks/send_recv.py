"""A message to the other rank and one back, ordinary and in shared memory, against Gloo."""

import sys
from collections.abc import Callable, Sequence

import torch.distributed as dist
from torch import Tensor

from benchmarks import collectives, command, ranks
from benchmarks.collectives import Claim
from benchmarks.results import Row, Target
from pyparallel.cli.collectives import Case
from pyparallel.cli.job import default_backend
from pyparallel.cli.ways import Way

NAME = "send_recv"
NUM_BYTES = 1 << 20
TARGET = Target("at least", 5)
BOTH_WAYS = "there and back"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=30)
    parser.add_argument("--bytes", type=command.positive, default=NUM_BYTES, help="of a message")
    collectives.add_arguments(parser, tensors=[collectives.ORDINARY, collectives.SHARED])
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)
    if options.ranks != [2]:
        parser.error("a message and its answer take --ranks 2")

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        target = TARGET if command.is_default(options, parser) else None
        claims = [
            Claim(
                Way(f"ours, {words}", ours, shared=kind == collectives.SHARED),
                f"{words}, {BOTH_WAYS}",
                target,
            )
            for kind, words in collectives.IN_WORDS.items()
            if kind in options.tensors
        ]
        timer = command.timer(options, ranks=joined, round_seconds=collectives.ROUND_SECONDS)
        case = collectives.case_of("send_recv", options, num_bytes=options.bytes, world_size=2)
        peer = Way(joined.peer_name, through_torch)
        return collectives.measure(joined, timer, case, claims, peer, seed=options.seed)

    return ranks.run(NAME, options, arguments, measure)


def ours(joined: ranks.ProcessRanks, case: Case, send: Tensor, receive: Tensor) -> Callable:
    """Rank 0 begins; rank 1 answers when it has received."""
    communicator = joined.context.communicator
    other = 1 - communicator.rank

    def begin() -> None:
        communicator.send(send, other).wait()
        communicator.recv(receive, other).wait()

    def answer() -> None:
        communicator.recv(receive, other).wait()
        communicator.send(send, other).wait()

    return answer if communicator.rank else begin


def through_torch(
    joined: ranks.ProcessRanks, case: Case, send: Tensor, receive: Tensor
) -> Callable:
    """The same through the default process group."""
    group = joined.groups[default_backend(joined.context.device.type)]
    other = 1 - joined.context.rank

    def begin() -> None:
        dist.send(send, other, group)
        dist.recv(receive, other, group)

    def answer() -> None:
        dist.recv(receive, other, group)
        dist.send(send, other, group)

    return answer if joined.context.rank else begin


if __name__ == "__main__":
    sys.exit(main())
