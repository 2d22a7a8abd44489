"""Reductions through torch.distributed: right for every op, dtype, layout and way to call."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ranks import errors_of_ranks
from torch_job import Alternately, drawn, run_torch_job, scattered

OP = dist.ReduceOp
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INTEGERS = (torch.int8, torch.uint8, torch.int32, torch.int64)
BITS: dict[Any, Any] = {
    OP.BAND: torch.bitwise_and,
    OP.BOR: torch.bitwise_or,
    OP.BXOR: torch.bitwise_xor,
}


def expected(op: Any, parts: list[Tensor]) -> Tensor:
    dtype, stack = parts[0].dtype, torch.stack(parts)
    if op in BITS:
        return reduce(BITS[op], parts)
    if dtype == torch.bool:
        return stack.any(0) if op in (OP.SUM, OP.MAX) else stack.all(0)
    wide = stack.to(torch.complex128 if dtype.is_complex else torch.float64)
    result = {
        OP.SUM: lambda: wide.sum(0),
        OP.AVG: lambda: wide.sum(0) * (1.0 / len(parts)),
        OP.MAX: lambda: wide.amax(0),
        OP.MIN: lambda: wide.amin(0),
        OP.PRODUCT: lambda: wide.prod(0),
    }[op]()
    return result.to(dtype)


def ops_of(dtype: torch.dtype) -> list[Any]:
    if dtype.is_complex:
        return [OP.SUM, OP.AVG]
    if dtype in FLOATS:
        return [OP.SUM, OP.AVG, OP.MAX, OP.MIN, OP.PRODUCT]
    return [OP.SUM, OP.MAX, OP.MIN, OP.PRODUCT, *BITS]


def check(found: Tensor, wanted: Tensor, *what: Any) -> None:
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if wanted.dtype.itemsize == 2 else {}
    torch.testing.assert_close(found, wanted, **tolerance, msg=lambda text: f"{what}: {text}")


def every_reduction(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    call = Alternately()
    for dtype in (*FLOATS, *INTEGERS, torch.bool, torch.complex64):
        for shape in ((), (0,), (1,), (3, 7), (5000,)):
            parts = drawn(seed, world * world, *shape, dtype=dtype)
            own = parts[rank * world :][:world]  # what this rank has for each rank
            for op in ops_of(dtype):
                for lay in (Tensor.clone, scattered):
                    what = (dtype, shape, op, lay)
                    tensor = lay(own[0])
                    call(dist.all_reduce, tensor, op)
                    check(tensor, expected(op, parts[::world]), "all_reduce", *what)

                    root = len(shape) % world
                    tensor = lay(own[0])
                    call(dist.reduce, tensor, root, op)
                    if rank == root:
                        check(tensor, expected(op, parts[::world]), "reduce", *what)
                    else:
                        check(tensor, own[0], "reduce elsewhere", *what)

                    mine = expected(op, parts[rank::world])
                    output = lay(torch.zeros_like(own[0]))
                    call(dist.reduce_scatter, output, [lay(part) for part in own], op)
                    check(output, mine, "reduce_scatter", *what)
                    if shape:
                        output = lay(torch.zeros_like(own[0]))
                        call(dist.reduce_scatter_tensor, output, lay(torch.cat(own)), op)
                        check(output, mine, "reduce_scatter_tensor", *what)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_reduction(world_size: int, seed: int) -> None:
    run_torch_job(world_size, every_reduction, seed, timeout=120)


def other_forms(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    parts = drawn(seed, world, 6, 5)
    total = torch.stack(parts).sum(0)
    group: Any = dist.group.WORLD

    # Premultiplied sums, by a number and by a tensor.
    for factor in (0.5, torch.tensor([0.5])):
        tensor = parts[rank].clone()
        dist.all_reduce(tensor, dist._make_nccl_premul_sum(factor))
        torch.testing.assert_close(tensor, total * 0.5)

    # Coalesced, in both of torch's ways.
    tensors = [parts[rank].clone(), scattered(parts[rank] + 1)]
    dist.all_reduce_coalesced(tensors)
    torch.testing.assert_close(tensors, [total, total + world])
    for device in (None, torch.device("cpu")):
        tensors = [parts[rank].clone(), scattered(parts[rank] + 1)]
        with dist._coalescing_manager(device=device, async_ops=True) as works:
            for tensor in tensors:
                dist.all_reduce(tensor, async_op=device is not None)
        works.wait()
        torch.testing.assert_close(tensors, [total, total + world])

    # Lists of different lengths; the inputs stay.
    inputs = [torch.full((r + 1,), float(rank)) for r in range(world)]
    output = torch.empty(rank + 1)
    dist.reduce_scatter(output, inputs)
    assert output.tolist() == [sum(range(world))] * (rank + 1)
    assert all(bool((part == rank).all()) for part in inputs)

    # The bare overloads of ProcessGroup.
    tensor = parts[rank].clone()
    group.allreduce(tensor, OP.MAX).wait()
    assert torch.equal(tensor, torch.stack(parts).amax(0))
    tensor = parts[rank].clone()
    group.allreduce([tensor]).wait()
    assert torch.equal(tensor, total)
    tensor = parts[rank].clone()
    group.reduce(tensor, 0, OP.MIN).wait()
    assert torch.equal(tensor, torch.stack(parts).amin(0) if rank == 0 else parts[rank])
    output = torch.empty(6, 5)
    group.reduce_scatter(output, [part.clone() for part in parts], OP.SUM).wait()
    assert torch.equal(output, parts[rank] * world)
    output = torch.empty(6, 5)
    group._reduce_scatter_base(output, torch.cat(parts), dist.ReduceScatterOptions()).wait()
    assert torch.equal(output, parts[rank] * world)

    # Parameters and what needs a gradient.
    weight = torch.nn.Parameter(parts[rank].clone().t())
    with torch.no_grad():
        dist.all_reduce(weight)
    assert torch.equal(weight, total.t())


@pytest.mark.parametrize("world_size", [2, 3])
def test_other_forms_of_reductions(world_size: int, seed: int) -> None:
    run_torch_job(world_size, other_forms, seed)


def refused(case: str) -> None:
    dist.init_process_group("pyparallel")
    {
        "sparse": lambda: dist.all_reduce(torch.eye(3).to_sparse()),
        "meta": lambda: dist.all_reduce(torch.empty(3, device="meta")),
        "integer mean": lambda: dist.all_reduce(torch.ones(3, dtype=torch.int32), OP.AVG),
        "bits of floats": lambda: dist.all_reduce(torch.ones(3), OP.BAND),
        "complex product": lambda: dist.group.WORLD.allreduce(  # type: ignore[union-attr]
            [torch.ones(3, dtype=torch.complex64)], OP.PRODUCT
        ),
        "lists": lambda: dist.reduce_scatter(torch.ones(3), [torch.ones(3)]),
        "sizes": lambda: dist.all_reduce(torch.ones(3 + dist.get_rank())),
    }[case]()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("sparse", "all_reduce: the tensor is torch.sparse_coo"),
        ("meta", "cpu and cuda, not meta"),
        ("integer mean", "the mean of torch.int32 is not an integer"),
        ("bits of floats", "torch.float32 has no RedOpType.BAND"),
        ("complex product", "torch.complex64 has no RedOpType.PRODUCT"),
        ("lists", "1 tensors for 2 ranks"),
        ("sizes", "all_reduce.*3.*4|all_reduce.*4.*3"),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(case: str, message: str) -> None:
    for error in errors_of_ranks(2, refused, case):
        assert error is not None
        with pytest.raises(type(error), match=message):
            raise error
