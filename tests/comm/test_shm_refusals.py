"""What ShmCommunicator refuses by name, and ranks that do not mean the same operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import pyparallel
from pyparallel.comm import Premultiplied, ShmCommunicator
from pyparallel.errors import CollectiveMismatchError
from ranks import errors_of_ranks, run_ranks


def communicator() -> ShmCommunicator:
    found = pyparallel.init().communicator
    assert isinstance(found, ShmCommunicator)
    return found


def overlaps() -> None:
    c = communicator()
    whole = torch.zeros(12)
    other = whole[(1 - c.rank) * 4 :][:4]
    whole_8 = whole[:8]
    calls: list[tuple[Any, tuple[Tensor, ...]]] = [
        (c.all_gather, (whole_8, other)),
        (c.reduce_scatter, (other, whole_8)),
        (c.all_gather, (whole_8, whole[c.rank * 4 + 1 :][:4])),
        (c.all_to_all, (whole_8, whole_8)),
        (c.all_to_all, (whole_8, whole[4:])),
    ]
    for call, tensors in calls:
        with pytest.raises(ValueError, match="input and output overlap"):
            call(*tensors)
    c.barrier().wait()


def test_other_overlaps_are_refused() -> None:
    run_ranks(2, overlaps)


def unmatched(sizes: str) -> None:
    c = communicator()
    large = 90_000 if sizes == "large" else 0
    given = {0: (3, large + 4, 5), 1: (large + 4, 1, 2), 2: (5, 2, 0)}
    expected = {**given, 1: (large + 4, 1, 6)}  # rank 1 expects 6 from rank 2, which sends 2
    output, input = torch.zeros(sum(expected[c.rank])), torch.zeros(sum(given[c.rank]))
    own = {"input_sizes": given[c.rank], "output_sizes": expected[c.rank]}
    c.all_to_all(output, input, **own).wait()


@pytest.mark.parametrize("sizes", ["small", "large"])
def test_what_is_sent_must_be_what_is_expected(sizes: str) -> None:
    for error in errors_of_ranks(3, unmatched, sizes):
        assert isinstance(error, CollectiveMismatchError)
        assert "rank 2 sends 2 x float32 to rank 1 in all_to_all" in str(error)
        assert "expects 6 x float32 from it" in str(error)


def disagree(kind: str) -> None:
    c = communicator()
    odd = c.rank == 1
    byte = torch.zeros(6, dtype=torch.int8 if odd else torch.uint8)
    part = byte[:2].clone()
    calls: dict[str, Any] = {
        "dtype": lambda: c.broadcast(byte),
        "equal parts": lambda: c.all_to_all(torch.zeros(3 + 3 * odd), torch.zeros(3 + 3 * odd)),
        "root": lambda: c.gather(byte if c.rank == odd else None, part, int(odd)),
        "kind": lambda: c.scatter(part, byte if c.rank == 0 else None) if odd else c.barrier(),
    }
    calls[kind]().wait()


@pytest.mark.parametrize(
    ("kind", "both"),
    [
        ("dtype", ("broadcast(6 x uint8, root 0)", "broadcast(6 x int8, root 0)")),
        ("equal parts", ("all_to_all(1 x float32 to each rank)", "(2 x float32 to each rank)")),
        ("root", ("gather(2 x uint8, root 0)", "gather(2 x int8, root 1)")),
        ("kind", ("barrier()", "scatter(2 x int8, root 0)")),
    ],
)
def test_ranks_that_disagree_are_told_both_sides(kind: str, both: tuple[str, str]) -> None:
    for error in errors_of_ranks(3, disagree, kind):
        assert isinstance(error, CollectiveMismatchError)
        assert all(side in str(error) for side in both), str(error)


def refusals() -> None:
    c = communicator()
    six = torch.zeros(6)
    with pytest.raises(ValueError, match="gather: root 2 is not in a world of 2"):
        c.gather(six, six[:3], 2)
    with pytest.raises(ValueError, match="output"):
        c.gather(None if c.rank == 0 else six, torch.zeros(3), 0)
    with pytest.raises(ValueError, match="7 elements are not 2 ranks times 3"):
        c.scatter(six[:3], torch.zeros(7), c.rank)
    with pytest.raises(ValueError, match="5 elements are not 2 equal parts; give input_sizes"):
        c.all_to_all(torch.zeros(6), torch.zeros(5))
    with pytest.raises(ValueError, match="sum to 5, the tensor has 6"):
        c.all_to_all(torch.zeros(6), torch.zeros(6), output_sizes=(2, 3))
    with pytest.raises(ValueError, match="conjugate"):
        c.broadcast(torch.zeros(3, dtype=torch.complex64).conj())
    with pytest.raises(TypeError, match="all_reduce: list is no tensor"):
        c.all_reduce([1.0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"size \(2, 3\) is no integer"):
        c.empty((2, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"size 2\.5 is no integer"):
        c.empty(2.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="quint8"):
        c.broadcast(torch.quantize_per_tensor(six, 0.1, 0, torch.quint8))
    c.barrier().wait()


def test_wrong_arguments_are_refused_by_name_and_harm_nobody() -> None:
    run_ranks(2, refusals)


def refused_reductions() -> None:
    c = pyparallel.init().communicator
    whole = torch.ones(6, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"0\.5 times torch\.int32 is not an integer"):
        c.all_reduce(whole, Premultiplied(0.5))
    with pytest.raises(ValueError, match=r"the mean of torch\.int32"):
        c.reduce(whole, 0, "mean")
    for dtype in (torch.bool, torch.complex64, torch.float8_e5m2, torch.uint16):
        with pytest.raises(TypeError, match=str(dtype)):
            c.all_reduce(torch.zeros(3, dtype=dtype), "max")
    with pytest.raises(ValueError, match="no algorithm 'nccl', but direct, ring or auto"):
        c.all_reduce(whole, algorithm="nccl")
    with pytest.raises(ValueError, match="'tree' is none of auto, direct, ring, nccl"):
        c.reduce_scatter(whole[:3], whole, algorithm="tree")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduce: root -1 is not in a world of 2"):
        c.reduce(whole, -1)
    with pytest.raises(ValueError, match="overlap, and neither is this rank's part of the other"):
        c.reduce_scatter(whole[1:4], whole)
    c.barrier().wait()


def test_what_cannot_be_combined_is_refused_by_name() -> None:
    run_ranks(2, refused_reductions)


def disagree_in_reductions(kind: str) -> None:
    c = pyparallel.init().communicator
    odd = c.rank == 1
    ten = torch.ones(10)
    calls: dict[str, Any] = {
        "algorithm": lambda: c.all_reduce(ten, algorithm="ring" if odd else "direct"),
        "root": lambda: c.reduce(ten, int(odd), "max"),
        "op": lambda: c.reduce(ten, 0, "product" if odd else Premultiplied(2.0)),
    }
    calls[kind]().wait()


@pytest.mark.parametrize(
    ("kind", "both"),
    [
        ("algorithm", ("all_reduce(10 x float32, sum, ring)", "all_reduce(10 x float32, sum)")),
        ("root", ("reduce(10 x float32, root 0, max)", "reduce(10 x float32, root 1, max)")),
        ("op", ("root 0, premultiplied sum)", "root 0, product)")),
    ],
)
def test_ranks_that_disagree_in_reductions_are_told_both_sides(
    kind: str, both: tuple[str, str]
) -> None:
    for error in errors_of_ranks(3, disagree_in_reductions, kind):
        assert isinstance(error, CollectiveMismatchError)
        assert all(side in str(error) for side in both), str(error)
