"""Sums of squares that a reduction yields on the way are those of its result, each part once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyparallel
from pyparallel.comm import Algorithm, Op, Premultiplied, ShmCommunicator, SoloCommunicator
from ranks import run_ranks

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
ALGORITHMS: tuple[Algorithm, ...] = ("auto", "direct", "ring")
LITTLE = (0, 1, 2, 15, 33, 129)
MUCH = (4_099, 16_385, 65_537, 131_073, 200_003)  # elements, around slots, pieces and steps


class Job:
    """The same random choices on all ranks; where a rank's tensor lies is its own affair."""

    def __init__(self, seed: int) -> None:
        found = pyparallel.init().communicator
        assert isinstance(found, ShmCommunicator | SoloCommunicator)
        self.c = found
        self.same = torch.Generator().manual_seed(seed)
        self.own = torch.Generator().manual_seed(seed + found.rank + 1)

    def pick(self, choices: tuple[Any, ...]) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=self.same))]

    def put(self, values: Tensor, *, shared: bool) -> Tensor:
        """A copy at an odd place."""
        whole = (self.c.empty if shared else torch.zeros)(values.numel() + 3, dtype=values.dtype)
        return whole[3:].copy_(values)

    def of_all(self, squares: Tensor) -> Tensor:
        """Every rank's two numbers, as rows."""
        rows = torch.empty(self.c.world_size, 2, dtype=torch.float64)
        self.c.all_gather(rows, squares).wait()
        return rows

    def reduced(
        self, values: Tensor, op: Op, algorithm: Algorithm, *, shared: bool, measured: bool = True
    ) -> tuple[Tensor, Tensor]:
        """The result of an all_reduce, and its squares or twice -1."""
        tensor = self.put(values, shared=shared)
        squares = torch.full((2,), -1.0, dtype=torch.float64)
        given = squares if measured else None
        version = squares._version
        self.c.all_reduce(tensor, op, algorithm=algorithm, squares=given).wait()
        assert (squares._version > version) == measured
        return tensor, squares


def squares_of(result: Tensor) -> float:
    return float(result.double().square().sum())


def close(actual: float, expected: float, *what: object) -> None:
    assert abs(actual - expected) <= 1e-12 * expected, (actual, expected, *what)


def every_sum(seed: int) -> None:
    job = Job(seed)
    c = job.c
    for dtype in FLOATS:
        for place in ("private", "shared", "mixed"):
            for algorithm in ALGORITHMS:
                factor = 0.5 - c.rank
                op: Op = job.pick(("sum", "mean", Premultiplied(factor)))
                count = job.pick(job.pick((LITTLE, MUCH)))
                what = dtype, place, algorithm, op, count, seed
                drawn = bool(torch.randint(2, (), generator=job.own))
                shared = place == "shared" or (place == "mixed" and drawn)
                values = torch.randn(count, generator=job.own).to(dtype)

                tensor, squares = job.reduced(values, op, algorithm, shared=shared)
                rows = job.of_all(squares)
                close(float(rows[:, 0].sum()), squares_of(tensor), "all_reduce", *what)
                assert rows[:, 1].eq(0.0).all(), what

                # Once more, and only some ranks want to know it: nothing else changes.
                wants = (c.rank + count) % 2 == 0
                again, same = job.reduced(values, op, algorithm, shared=shared, measured=wants)
                assert torch.equal(again, tensor), what
                assert torch.equal(same, squares if wants else torch.full_like(same, -1.0)), what

                length = count // c.world_size
                input = job.put(values[: length * c.world_size], shared=shared)
                output = input[c.rank * length :][:length]  # in place
                c.reduce_scatter(output, input, op, algorithm=algorithm, squares=squares).wait()
                close(float(squares[0]), squares_of(output), "reduce_scatter", *what)
                assert squares[1] == 0.0, what


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_squares_are_those_of_the_result(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_sum, seed)


def every_place(seed: int) -> None:
    job = Job(seed)
    c = job.c
    for algorithm in ALGORITHMS[1:]:
        for shared in (False, True):
            for count in (12, 131_076):
                for where in (0, 1, 2, 3):  # an element of each quarter, so of every rank's part
                    special = job.pick((float("inf"), float("-inf"), float("nan")))
                    place = where * (count // 4) + job.pick(tuple(range(3)))
                    culprit = job.pick(tuple(range(c.world_size)))
                    what = algorithm, shared, count, place, special, seed
                    dtype = job.pick(FLOATS)
                    values = torch.ones(count, dtype=dtype)
                    if c.rank == culprit:
                        values[place] = special
                    _, squares = job.reduced(values, "sum", algorithm, shared=shared)
                    rows = job.of_all(squares)
                    assert rows[:, 1].sum() == 1.0, what  # whoever has that part, and nobody else
                    assert torch.equal(rows[:, 0].isfinite(), rows[:, 1] == 0.0), what

                    input = job.put(values, shared=shared)
                    output = torch.empty(count // c.world_size, dtype=dtype)
                    c.reduce_scatter(output, input, algorithm=algorithm, squares=squares).wait()
                    assert bool(squares[1]) != bool(output.isfinite().all()), what


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_who_has_the_part_with_inf_or_nan_says_so(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_place, seed)


def mistakes() -> None:
    c = Job(0).c
    pair, whole = torch.zeros(2, dtype=torch.float64), torch.ones(8, dtype=torch.float64)
    calls: list[tuple[Tensor, Any, Tensor, str]] = [
        (torch.ones(3), "max", pair, "squares only of sums of .*, not of max of torch.float32"),
        (torch.ones(3), "product", pair, "not of product of torch.float32"),
        (torch.ones(3, dtype=torch.int32), "sum", pair, "not of sum of torch.int32"),
        (torch.ones(3), "sum", torch.zeros(3).double(), "squares is 3 x torch.float64, not 2 x"),
        (torch.ones(3), "sum", torch.zeros(2), "squares is 2 x torch.float32, not 2 x"),
        (torch.ones(3), "sum", torch.zeros(4).double()[::2], "squares.* has gaps"),
        (torch.ones(3), "sum", torch.zeros(2, device="meta"), "squares.* on meta"),
        (whole, "sum", whole[-2:], "squares lies in the tensor"),
        (whole[1:], "sum", whole[:2], "squares lies in the tensor"),
    ]
    for tensor, op, squares, message in calls:
        with pytest.raises(ValueError, match=f"all_reduce.*{message}"):
            c.all_reduce(tensor, op, squares=squares)
        output = tensor[: tensor.numel() // c.world_size]
        input = tensor[: output.numel() * c.world_size]
        with pytest.raises(ValueError, match=f"reduce_scatter.*{message}"):
            c.reduce_scatter(output, input, op, squares=squares)
    c.all_reduce(whole[2:], squares=whole[:2]).wait()  # beside it
    c.barrier().wait()


@pytest.mark.parametrize("world_size", [1, 2])
def test_mistakes_are_refused_by_name(world_size: int) -> None:
    run_ranks(world_size, mistakes)
