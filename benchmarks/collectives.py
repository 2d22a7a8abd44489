"""What the benchmarks of communication share: one case run by ours, in several ways, and a peer."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import command
from benchmarks.ranks import ProcessRanks
from benchmarks.results import Row, Target
from pyparallel.cli.collectives import Case
from pyparallel.cli.job import default_backend
from pyparallel.cli.timer import Timer
from pyparallel.cli.ways import Way, enter, our_way, torch_way

ORDINARY = "ordinary"
SHARED = "shared"
IN_WORDS = {ORDINARY: "ordinary tensor", SHARED: "tensor of communicator.empty"}
# A round repeats what is shorter, so that one preemption does not decide it.
ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Claim:
    """A row to be.

    Attributes:
        way: Of ours.
        in_words: How the row calls it.
        target: Against the peer; None for options that have none.
        most_seconds: Whatever the peer takes.
    """

    way: Way
    in_words: str
    target: Target | None = None
    most_seconds: float | None = None


def add_arguments(parser: argparse.ArgumentParser, *, tensors: Sequence[str]) -> None:
    """Adds the options that say what is moved, with their defaults."""
    parser.add_argument("--dtype", choices=command.DTYPES, default="fp32")
    parser.add_argument(
        "--tensors",
        nargs="+",
        choices=(ORDINARY, SHARED),
        default=list(tensors),
        help=f"{ORDINARY} ones, or those of communicator.empty",
    )


def case_of(name: str, options: argparse.Namespace, *, num_bytes: int, world_size: int) -> Case:
    """A sum, or a move, of elements of `--dtype`."""
    return Case.of_bytes(name, num_bytes, command.DTYPES[options.dtype], "sum", world_size)


def our_ways(options: argparse.Namespace) -> dict[str, Way]:
    """Through the communicator, by the kind of tensors."""
    return {
        kind: our_way(f"ours, {IN_WORDS[kind]}", shared=kind == SHARED) for kind in options.tensors
    }


def torch_peer(ranks: ProcessRanks) -> Way:
    """torch.distributed with the device's own backend."""
    return torch_way(ranks.peer_name, default_backend(ranks.context.device.type))


def measure(
    ranks: ProcessRanks,
    timer: Timer,
    case: Case,
    claims: Sequence[Claim],
    peer: Way | str,
    *,
    seed: int,
    copied_bytes: int = 0,
) -> list[Row]:
    """Measures ways of ours and a peer against each other; a row for each of ours.

    Args:
        ranks: Who does it.
        timer: Of these ranks.
        case: What is done.
        claims: One per row.
        peer: Whose results are checked as well; or, in words, why there is none.
        seed: Of what is checked.
        copied_bytes: See Timer.compare; 0 if memory is not what takes the time.
    """
    ways = [claim.way for claim in claims] + ([] if isinstance(peer, str) else [peer])
    entries = [enter(way, case, ranks, seed=seed) for way in ways]

    def verify() -> None:
        for entry in entries:
            entry.verify()

    with command.progress(str(case), timer, visible=ranks.context.rank == 0) as advance:
        measurement = timer.compare(
            [entry.contestant for entry in entries],
            verify=verify,
            copied_bytes=copied_bytes,
            advance=advance,
        )
    rows = []
    for claim in claims:
        if isinstance(peer, str):
            numbers = {"ours": measurement.time(claim.way.name), "peer": None, "ratio": None}
        else:
            numbers = measurement.against(peer.name, ours=claim.way.name)
        row = Row(
            label=f"{case}, {claim.in_words}",
            peer_name=peer if isinstance(peer, str) else peer.name,
            target=claim.target,
            most_seconds=claim.most_seconds,
            num_bytes=2 * case.num_bytes * ranks.world_size if copied_bytes else None,
            **numbers,
        )
        rows.append(row)
    return rows
