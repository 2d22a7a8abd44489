"""What each collective moves, what must come out of it, and its bandwidths as nccl-tests has them.

Sources: NVIDIA/nccl-tests, doc/PERFORMANCE.md and the *GetBw functions of src/. S, the bytes of an
operation, are those of the largest buffer of a rank; with n ranks and time t

    algbw = S / t        busbw = algbw * factor(n)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import get_args

import torch
from torch import Tensor

from pyparallel.cli.arguments import dtype_name
from pyparallel.comm.communicator import Reduction

ROOT = 0
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
LARGEST_OPERAND = 8


@dataclass(frozen=True)
class Collective:
    """Buffers and bandwidth of an operation.

    Attributes:
        name: as in Communicator; send_recv passes every rank's buffer on to the next rank.
        bus_factor: busbw over algbw for a number of ranks.
        sends_part: the buffer that is sent is one of n parts of the larger one.
        receives_part: so is the one that is received into.
        in_place: there is only one buffer.
        combines: takes an operator.
        chooses: takes an algorithm.
    """

    name: str
    bus_factor: Callable[[int], float]
    sends_part: bool = False
    receives_part: bool = False
    in_place: bool = False
    combines: bool = False
    chooses: bool = False


def _all_but_own(ranks: int) -> float:
    return (ranks - 1) / ranks


def _one(ranks: int) -> float:
    return 1.0


COLLECTIVES = {
    one.name: one
    for one in (
        Collective(
            "all_reduce",
            lambda ranks: 2 * (ranks - 1) / ranks,
            in_place=True,
            combines=True,
            chooses=True,
        ),
        Collective("reduce_scatter", _all_but_own, receives_part=True, combines=True, chooses=True),
        Collective("all_gather", _all_but_own, sends_part=True),
        Collective("broadcast", _one, in_place=True),
        Collective("reduce", _one, in_place=True, combines=True),
        Collective("gather", _all_but_own, sends_part=True),
        Collective("scatter", _all_but_own, receives_part=True),
        Collective("all_to_all", _all_but_own),
        Collective("send_recv", _one),
    )
}


@dataclass(frozen=True)
class Case:
    """One collective at one size.

    Attributes:
        collective: what is done.
        numel: elements of the larger buffer; a multiple of world_size.
        dtype: of the elements.
        op: how they are combined, where they are.
        world_size: number of ranks.
    """

    collective: Collective
    numel: int
    dtype: torch.dtype
    op: Reduction
    world_size: int

    @classmethod
    def of_bytes(
        cls, name: str, num_bytes: int, dtype: torch.dtype, op: Reduction, world_size: int
    ) -> Case:
        """The largest case whose larger buffer has at most so many bytes, but one element each.

        Only collectives of equal parts have to round.
        """
        collective = COLLECTIVES[name]
        in_parts = collective.sends_part or collective.receives_part or name == "all_to_all"
        unit = world_size if in_parts else 1
        numel = max(1, num_bytes // dtype.itemsize // unit) * unit
        return cls(collective, numel, dtype, op, world_size)

    def __str__(self) -> str:
        op = "" if self.op == "sum" else f" {self.op}"
        size = f"{format_bytes(self.num_bytes)} {dtype_name(self.dtype)}{op}"
        return f"{self.collective.name} of {size}, {self.world_size} ranks"

    @property
    def num_bytes(self) -> int:
        """S."""
        return self.numel * self.dtype.itemsize

    @property
    def send_numel(self) -> int:
        """Elements of the buffer that is sent."""
        return self.numel // (self.world_size if self.collective.sends_part else 1)

    @property
    def receive_numel(self) -> int:
        """Elements of the buffer that is received into, which may be the same."""
        return self.numel // (self.world_size if self.collective.receives_part else 1)

    def algbw(self, seconds: float) -> float:
        """Bytes per second."""
        return self.num_bytes / seconds

    def busbw(self, seconds: float) -> float:
        """Bytes per second over the bottleneck, whatever the number of ranks."""
        return self.algbw(seconds) * self.collective.bus_factor(self.world_size)

    def operand(self, rank: int, *, seed: int, device: torch.device | str = "cpu") -> Tensor:
        """Random integers that a rank sends, so small that every result is exact in the dtype."""
        generator = torch.Generator(device).manual_seed(seed + rank)
        made = torch.empty(self.send_numel, dtype=self.dtype, device=device)
        if self.op == "product":  # -2, -1, 1 or 2
            made.random_(0, 4, generator=generator)
            return made.sub_(2).add_((made >= 0).to(self.dtype))
        ranks = self.world_size
        exact = 2 / torch.finfo(self.dtype).eps if self.dtype.is_floating_point else 2**31
        # A mean of multiples of the number of ranks is an integer, too.
        step = ranks if self.op == "mean" else 1
        largest = min(LARGEST_OPERAND, int(exact) // (step * ranks))
        return made.random_(-largest, largest + 1, generator=generator).mul_(step)

    def expected(
        self, rank: int, *, seed: int, device: torch.device | str = "cpu"
    ) -> Tensor | None:
        """What a rank must have received; None if it receives nothing."""

        def operand(sender: int) -> Tensor:
            return self.operand(sender, seed=seed, device=device)

        def part(whole: Tensor) -> Tensor:
            return whole.view(self.world_size, -1)[rank]

        everybody = range(self.world_size)
        name = self.collective.name
        if name in ("gather", "reduce") and rank != ROOT:
            return None
        if name in ("all_reduce", "reduce"):
            return self._combined(operand)
        if name == "reduce_scatter":
            return part(self._combined(operand))
        if name in ("all_gather", "gather"):
            return torch.cat([operand(sender) for sender in everybody])
        if name == "all_to_all":
            return torch.cat([part(operand(sender)) for sender in everybody])
        if name == "send_recv":
            return operand((rank - 1) % self.world_size)
        return part(operand(ROOT)) if name == "scatter" else operand(ROOT)

    def _combined(self, operand: Callable[[int], Tensor]) -> Tensor:
        combine: dict[Reduction, Callable[[Tensor, Tensor], Tensor]] = {
            "sum": torch.add,
            "mean": torch.add,
            "max": torch.maximum,
            "min": torch.minimum,
            "product": torch.mul,
        }
        total = reduce(combine[self.op], map(operand, range(self.world_size)))
        return total.div_(self.world_size) if self.op == "mean" else total

    def verify(
        self,
        what: str,
        run: Callable[[], object],
        send: Tensor,
        receive: Tensor,
        *,
        rank: int,
        seed: int,
    ) -> None:
        """Runs once on random integers; what this rank receives has to be exact.

        Raises:
            AssertionError: with the first wrong element.
        """
        floating = self.dtype.is_floating_point
        receive.fill_(torch.nan if floating else torch.iinfo(self.dtype).max)  # is never a result
        send.copy_(self.operand(rank, seed=seed, device=send.device))
        run()
        expected = self.expected(rank, seed=seed, device=send.device)
        if expected is not None:
            check(f"{self.collective.name} through {what}", receive, expected)


def check(what: str, tensor: Tensor, expected: Tensor) -> None:
    """Compares exactly.

    Raises:
        AssertionError: with the first wrong element.
    """
    wrong = (tensor != expected).nonzero()
    if len(wrong):
        index = int(wrong[0])
        raise AssertionError(
            f"{what}: {len(wrong)} of {tensor.numel()} elements are wrong; "
            f"element {index} is {tensor[index].item()}, it must be {expected[index].item()}"
        )


def format_bytes(num_bytes: int) -> str:
    """A size in the largest binary unit of which it is a multiple of a tenth."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if num_bytes >= unit and 10 * num_bytes % unit == 0:
            return f"{num_bytes / unit:g} {name}"
    return f"{num_bytes} B"
