"""What the all_reduce benchmarks share: ours against torch's process group, here Gloo or NCCL."""

import argparse
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks import command
from benchmarks.ranks import ProcessRanks
from benchmarks.results import Row, Target
from pyparallel.cli.timer import Contestant, Timer

ORDINARY = "ordinary"
SHARED = "shared"
IN_WORDS = {ORDINARY: "ordinary tensor", SHARED: "tensor of communicator.empty"}
# Integers of which every sum over the ranks is exact in 16 bits, too.
LARGEST_OPERAND = 8


def add_arguments(parser: argparse.ArgumentParser, *, tensors: Sequence[str]) -> None:
    """Adds the options that say what is reduced, with their defaults."""
    parser.add_argument("--dtype", choices=command.DTYPES, default="fp32")
    parser.add_argument(
        "--tensors",
        nargs="+",
        choices=(ORDINARY, SHARED),
        default=list(tensors),
        help=f"{ORDINARY} ones, or those of communicator.empty",
    )


def measure(
    ranks: ProcessRanks,
    timer: Timer,
    options: argparse.Namespace,
    *,
    num_bytes: int,
    copied_bytes: int,
    targets: Mapping[str, Target],
) -> list[Row]:
    """Sums tensors of one size over all ranks: ours of every kind and the peer, by turns.

    Args:
        ranks: Who reduces.
        timer: Of these ranks.
        options: With those of `add_arguments`.
        num_bytes: Of a tensor.
        copied_bytes: See Timer.compare; 0 if memory is not what takes the time.
        targets: By kind of tensor.
    """
    tensors = allocate(ranks, options, num_bytes=num_bytes)
    contestants = [contestant(kind, tensor, ranks) for kind, tensor in tensors.items()]
    size = f"all_reduce of {format_bytes(num_bytes)} {options.dtype}, {ranks.world_size} ranks"
    with command.progress(size, timer, visible=ranks.context.rank == 0) as advance:
        measurement = timer.compare(
            contestants,
            verify=lambda: verify(contestants, tensors, ranks, seed=options.seed),
            copied_bytes=copied_bytes,
            advance=advance,
        )
    return [
        Row(
            label=f"{size}, {IN_WORDS[kind]}",
            peer_name=ranks.peer_name,
            target=targets.get(kind),
            num_bytes=2 * num_bytes * ranks.world_size if copied_bytes else None,
            **measurement.against(ranks.peer_name, ours=kind),
        )
        for kind in options.tensors
    ]


def allocate(
    ranks: ProcessRanks, options: argparse.Namespace, *, num_bytes: int
) -> dict[str, Tensor]:
    """A tensor for every kind of ours, and an ordinary one for the peer under the peer's name."""
    dtype = command.DTYPES[options.dtype]
    numel = num_bytes // dtype.itemsize
    return {
        kind: ranks.context.communicator.empty(numel, dtype=dtype)
        if kind == SHARED
        else torch.zeros(numel, dtype=dtype, device=ranks.context.device)
        for kind in (*options.tensors, ranks.peer_name)
    }


def contestant(kind: str, tensor: Tensor, ranks: ProcessRanks) -> Contestant:
    """One way to reduce a tensor, which is rewritten before, as a training step would."""
    rank, communicator = ranks.context.rank, ranks.context.communicator

    def ours() -> None:
        communicator.all_reduce(tensor).wait()

    def peer() -> None:
        dist.all_reduce(tensor)

    run = peer if kind == ranks.peer_name else ours
    return Contestant(kind, run, lambda: tensor.fill_(rank + 1))


def verify(
    contestants: Sequence[Contestant],
    tensors: Mapping[str, Tensor],
    ranks: ProcessRanks,
    *,
    seed: int,
) -> None:
    """Reduces random integers once per contestant; the sum has to be exact.

    Raises:
        AssertionError: With the first wrong element.
    """
    for one in contestants:
        tensor = tensors[one.name]
        operands = (operand(tensor, seed=seed + rank) for rank in range(ranks.world_size))
        expected = torch.zeros_like(tensor)
        for rank, values in enumerate(operands):
            expected += values
            if rank == ranks.context.rank:
                tensor.copy_(values)
        one.run()
        check(one.name, tensor, expected)


def operand(like: Tensor, *, seed: int) -> Tensor:
    """Random small integers of a tensor's shape, dtype and device."""
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.empty_like(like).random_(
        -LARGEST_OPERAND, LARGEST_OPERAND + 1, generator=generator
    )


def check(name: str, tensor: Tensor, expected: Tensor) -> None:
    """Compares exactly.

    Raises:
        AssertionError: With the first wrong element.
    """
    wrong = (tensor != expected).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise AssertionError(
            f"all_reduce of {name} tensors: {len(wrong)} of {tensor.numel()} elements are wrong; "
            f"element {index} is {tensor[index].item()}, it must be {expected[index].item()}"
        )


def format_bytes(num_bytes: int) -> str:
    """A size in the largest binary unit that divides it."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if num_bytes % unit == 0:
            return f"{num_bytes // unit} {name}"
    return f"{num_bytes} B"
