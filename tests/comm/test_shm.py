"""ShmCommunicator: right values for every operation, dtype and size, the same bits on all ranks."""

from __future__ import annotations

import gc
import os
from typing import Any

import pytest
import torch

import pyparallel
from pyparallel.comm import ShmCommunicator
from ranks import errors_of_ranks, run_ranks

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
DTYPES = (*FLOATS, torch.int32, torch.int64)
# Around the slot (128 KiB of 2 ranks, less of more), the piece (256 KiB) and double buffering.
SIZES = (0, 1, 7, 100, 32 << 10, 128 << 10, (128 << 10) + 64, 256 << 10, (256 << 10) + 8, 700_001)


def communicator() -> ShmCommunicator:
    found = pyparallel.init().communicator
    assert isinstance(found, ShmCommunicator)
    return found


def operands(count: int, dtype: torch.dtype, world_size: int, seed: int) -> list[torch.Tensor]:
    """Small integers, so that every sum is exact in any order; the same list on all ranks."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-4, 5, (count,), generator=generator).to(dtype) for _ in range(world_size)
    ]


def reference(parts: list[torch.Tensor], op: str) -> torch.Tensor:
    stack = torch.stack(parts).double()
    result = {
        "sum": lambda: stack.sum(0),
        "mean": lambda: stack.sum(0) * (1.0 / len(parts)),
        "max": lambda: stack.amax(0),
        "min": lambda: stack.amin(0),
    }[op]()
    return result.to(parts[0].dtype)


def place(part: torch.Tensor, *, shared: bool) -> torch.Tensor:
    if shared:
        tensor = communicator().empty(part.numel(), dtype=part.dtype)
    else:
        tensor = torch.empty_like(part)
    return tensor.copy_(part)


def every_all_reduce(seed: int) -> None:
    c = communicator()
    for dtype in DTYPES:
        for size in SIZES:
            count = size // dtype.itemsize
            parts = operands(count, dtype, c.world_size, seed)
            for op in ("sum", "mean", "max", "min"):
                if op == "mean" and not dtype.is_floating_point:
                    continue
                for mode in ("private", "shared", "mixed"):
                    shared = mode == "shared" or (mode == "mixed" and c.rank == 0)
                    tensor = place(parts[c.rank], shared=shared)
                    c.all_reduce(tensor, op).wait()
                    expected = reference(parts, op)
                    close = {"rtol": 1e-2, "atol": 1e-2} if dtype.itemsize == 2 else {}
                    torch.testing.assert_close(
                        tensor, expected, **close, msg=f"{dtype} {size} {op} {mode}"
                    )


def every_other_operation(seed: int) -> None:
    c = communicator()
    for dtype in DTYPES:
        for size in SIZES:
            count = size // dtype.itemsize
            parts = operands(count, dtype, c.world_size, seed)
            for shared in (False, True):
                root = size % c.world_size
                tensor = place(parts[c.rank], shared=shared)
                c.broadcast(tensor, root).wait()
                assert torch.equal(tensor, parts[root]), (dtype, size, shared, "broadcast")
                whole = torch.empty(count * c.world_size, dtype=dtype)
                c.all_gather(whole, place(parts[c.rank], shared=shared)).wait()
                assert torch.equal(whole, torch.cat(parts)), (dtype, size, shared, "all_gather")
                inputs = [torch.cat([part + k for k in range(c.world_size)]) for part in parts]
                output = torch.empty(count, dtype=dtype)
                c.reduce_scatter(output, place(inputs[c.rank], shared=shared)).wait()
                own = reference(inputs, "sum")[c.rank * count :][:count]
                assert torch.equal(output, own), (dtype, size, shared, "reduce_scatter")
            c.barrier().wait()


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_all_reduce_is_right_for_every_dtype_size_and_place(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_all_reduce, seed, timeout=120)


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_other_operations_are_right(world_size: int, seed: int) -> None:
    run_ranks(world_size, every_other_operation, seed, timeout=120)


def bits_of_random_sums(seed: int) -> list[bytes]:
    c = communicator()
    generator = torch.Generator().manual_seed(seed + c.rank)
    results = []
    for dtype in FLOATS:
        for count in (1000, 40_000, 200_000):
            for shared in (False, True):
                tensor = torch.randn(count, generator=generator).to(dtype)
                tensor = place(tensor, shared=shared)
                c.all_reduce(tensor, "mean").wait()
                results.append(bytes(tensor.view(torch.uint8).numpy()))
    return results


def test_results_are_the_same_bits_on_all_ranks_and_in_every_run(seed: int) -> None:
    first = run_ranks(3, bits_of_random_sums, seed)
    second = run_ranks(3, bits_of_random_sums, seed)
    assert first[0] == first[1] == first[2]
    assert first == second


def many_works(seed: int) -> None:
    c = communicator()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed + c.rank)).tolist()
    for background in (True, False):
        tensors = [torch.full((10 + 3000 * i,), float(c.rank + 1)) for i in range(40)]
        works = [c.all_reduce(tensor, background=background) for tensor in tensors]
        for i in order:
            works[i].wait()
            assert works[i].is_completed()
            assert works[i].exception() is None
        expected = c.world_size * (c.world_size + 1) / 2
        assert all(bool((tensor == expected).all()) for tensor in tensors)


def test_many_works_in_flight_may_be_waited_for_in_any_order(seed: int) -> None:
    run_ranks(3, many_works, seed)


def dropped_works() -> None:
    c = communicator()
    for _ in range(50):
        c.all_reduce(torch.ones(50_000))  # neither the work nor the tensor is kept
        gc.collect()
    last = torch.ones(1)
    c.all_reduce(last).wait()
    assert last.item() == c.world_size


def test_a_work_that_nobody_waits_for_is_completed_and_keeps_its_tensor() -> None:
    run_ranks(2, dropped_works)


def allocate_and_free() -> tuple[int, int]:
    c = communicator()
    before = len(os.listdir("/proc/self/fd"))
    for turn in range(300):
        tensor = c.empty(20_000 + turn % 7)
        tensor.fill_(1)
        c.all_reduce(tensor).wait()
        assert tensor[-1].item() == c.world_size
        del tensor
    c.all_reduce(torch.zeros(20_000)).wait()  # notices what the peers gave back
    return before, len(os.listdir("/proc/self/fd"))


def test_shared_tensors_give_their_memory_and_descriptors_back() -> None:
    for before, after in run_ranks(2, allocate_and_free):
        assert after <= before + 4


def nan_and_versions() -> None:
    c = communicator()
    for op in ("max", "min", "sum"):
        tensor = torch.tensor([1.0, float("nan") if c.rank == 1 else 2.0])
        version = tensor._version
        c.all_reduce(tensor, op).wait()
        assert tensor[1].isnan(), op
        assert not tensor[0].isnan()
        assert tensor._version > version


def test_nan_wins_and_the_version_counter_moves() -> None:
    run_ranks(3, nan_and_versions)


def refusals() -> None:
    c = communicator()
    with pytest.raises(ValueError, match=r"mean of torch.int32.*op='sum'"):
        c.all_reduce(torch.ones(3, dtype=torch.int32), "mean")
    with pytest.raises(ValueError, match=r"'xor' is none of sum, mean, max, min, product"):
        c.all_reduce(torch.ones(3), "xor")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"strides \(1, 3\) is not contiguous"):
        c.all_reduce(torch.ones(3, 3).t())
    with pytest.raises(TypeError, match="complex64"):
        c.all_reduce(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="on meta"):
        c.all_reduce(torch.ones(3, device="meta"))
    with pytest.raises(ValueError, match="root 2 is not in a world of 2"):
        c.broadcast(torch.ones(3), 2)
    with pytest.raises(ValueError, match="7 elements are not 2 ranks times 3"):
        c.all_gather(torch.empty(7), torch.ones(3))
    with pytest.raises(ValueError, match=r"float32 and torch.float64 differ"):
        c.all_gather(torch.empty(6), torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="negative size"):
        c.empty(-1)
    with pytest.raises(pyparallel.errors.OutOfMemoryError) as caught:
        c.empty(1 << 50)
    assert caught.value.requested == 4 << 50
    assert str(caught.value.available) in str(caught.value)
    c.barrier().wait()  # a refused call has told the others nothing


def test_wrong_arguments_are_refused_by_name_and_harm_nobody() -> None:
    run_ranks(2, refusals)


def disagree(kind: str) -> None:
    c = communicator()
    odd = c.rank == 1
    calls: dict[str, Any] = {
        "size": lambda: c.all_reduce(torch.ones(11 if odd else 10)),
        "dtype": lambda: c.all_reduce(torch.ones(10, dtype=torch.float64 if odd else None)),
        "op": lambda: c.all_reduce(torch.ones(10), "max" if odd else "sum"),
        "kind": lambda: c.barrier() if odd else c.all_reduce(torch.ones(100_000)),
        "root": lambda: c.broadcast(torch.ones(10), 1 if odd else 0),
    }
    calls[kind]().wait()


@pytest.mark.parametrize(
    ("kind", "both"),
    [
        ("size", ("10 x float32", "11 x float32")),
        ("dtype", ("10 x float32", "10 x float64")),
        ("op", ("sum", "max")),
        ("kind", ("barrier()", "all_reduce(100000 x float32")),
        ("root", ("root 0", "root 1")),
    ],
)
def test_ranks_that_disagree_are_told_both_sides(kind: str, both: tuple[str, str]) -> None:
    for error in errors_of_ranks(3, disagree, kind):
        assert isinstance(error, pyparallel.errors.CollectiveMismatchError)
        assert all(side in str(error) for side in both), str(error)
