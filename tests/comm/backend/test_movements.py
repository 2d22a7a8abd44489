"""Operations that only move, through torch.distributed: every dtype, layout and way to call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions

from ranks import errors_of_ranks
from torch_job import Alternately, drawn, run_torch_job, scattered

DTYPES = (
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
)


def check(found: Any, wanted: Any, *what: Any) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, msg=lambda text: f"{what}: {text}")


def every_movement(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    call = Alternately()
    for dtype in DTYPES:
        for shape in ((), (0,), (1,), (3, 7), (5000,)):
            for lay in (Tensor.clone, scattered):
                what = (dtype, shape, lay)
                parts = [part.to(dtype) for part in drawn(seed, world * world, *shape)]
                inputs = parts[:world]  # one of each rank
                own = parts[rank * world :][:world]  # what this rank has for each rank
                for_me = parts[rank::world]
                root = len(shape) % world

                tensor = lay(inputs[rank])
                call(dist.broadcast, tensor, root)
                check(tensor, inputs[root], "broadcast", *what)

                outputs = [lay(torch.zeros_like(part)) for part in inputs]
                call(dist.all_gather, outputs, lay(inputs[rank]))
                check(outputs, inputs, "all_gather", *what)

                outputs = [lay(torch.zeros_like(part)) for part in inputs]
                call(dist.gather, lay(inputs[rank]), outputs if rank == root else None, root)
                if rank == root:
                    check(outputs, inputs, "gather", *what)

                output = lay(torch.zeros_like(own[0]))
                call(dist.scatter, output, [lay(p) for p in own] if rank == root else None, root)
                check(output, parts[root * world + rank], "scatter", *what)

                outputs = [lay(torch.zeros_like(part)) for part in inputs]
                call(dist.all_to_all, outputs, [lay(part) for part in own])
                check(outputs, for_me, "all_to_all", *what)

                if shape:
                    output = lay(torch.zeros_like(torch.cat(inputs)))
                    call(dist.all_gather_into_tensor, output, lay(inputs[rank]))
                    check(output, torch.cat(inputs), "all_gather_into_tensor", *what)
                    output = lay(torch.zeros_like(torch.cat(inputs)))
                    call(dist.all_to_all_single, output, lay(torch.cat(own)))
                    check(output, torch.cat(for_me), "all_to_all_single", *what)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_movement(world_size: int, seed: int) -> None:
    run_torch_job(world_size, every_movement, seed, timeout=120)


def other_forms(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    group: Any = dist.group.WORLD
    call = Alternately()
    rows = drawn(seed, world, 2 * world, 5)

    # Sizes that differ between ranks.
    for _ in range(3):
        inputs = [row[: r + 1] for r, row in enumerate(rows)]
        outputs = [torch.zeros(r + 1, 5) for r in range(world)]
        call(dist.all_gather, outputs, inputs[rank])
        check(outputs, inputs)
        outputs = [torch.zeros(rank, 5) for _ in range(world)]
        call(dist.all_to_all, outputs, [rows[rank][:r] for r in range(world)])
        check(outputs, [row[:rank] for row in rows])
        given = torch.cat([rows[rank][:r] for r in range(world)])
        output = torch.zeros(rank * world, 5)
        splits = [rank] * world, list(range(world))
        call(dist.all_to_all_single, output, given, *splits)
        check(output, torch.cat([row[:rank] for row in rows]))

    # Coalesced.
    outputs = [torch.zeros(2 * world * world, 5), scattered(torch.zeros(world))]
    scalar = torch.tensor([float(rank)])
    with dist._coalescing_manager():
        dist.all_gather_into_tensor(outputs[0], rows[rank])
        dist.all_gather_into_tensor(outputs[1], scalar)
    check(outputs, [torch.cat(rows), torch.arange(float(world))])
    lists = [[torch.zeros(2 * world, 5), torch.zeros(1)] for _ in range(world)]
    dist.all_gather_coalesced(lists, [rows[rank], scalar])
    check(lists, [[row, torch.tensor([float(r)])] for r, row in enumerate(rows)])

    # Views of one buffer are filled where they lie, in order or not.
    whole = torch.zeros(world, 2 * world, 5)
    for views in (list(whole), list(whole)[::-1]):
        dist.all_gather(views, rows[rank])
        check(views, rows)

    # Inputs and outputs with a lazy conjugate.
    outputs = [torch.zeros(3, dtype=torch.complex64) for _ in range(world)]
    mine = torch.full((3,), complex(1, rank), dtype=torch.complex64)
    group.allgather([outputs], [mine.conj()]).wait()
    assert [part[0].item() for part in outputs] == [complex(1, -r) for r in range(world)]

    # The bare overloads of ProcessGroup.
    tensor = rows[rank].clone()
    group.broadcast(tensor, 0).wait()
    check(tensor, rows[0])
    outputs = [torch.zeros_like(row) for row in rows]
    group.allgather(outputs, rows[rank]).wait()
    check(outputs, rows)
    outputs = [torch.zeros_like(row) for row in rows]
    group.gather(outputs, rows[rank], 0).wait()
    check(outputs, rows if rank == 0 else [torch.zeros_like(row) for row in rows])
    output = torch.zeros(2 * world, 5)
    group.scatter(output, rows if rank == 0 else [], 0).wait()
    check(output, rows[rank])
    output = torch.zeros(2 * world * world, 5)
    group._allgather_base(output, rows[rank], AllgatherOptions()).wait()
    check(output, torch.cat(rows))
    output = torch.zeros(2 * world, 5)
    group.alltoall_base(output, rows[rank], [], []).wait()
    check(output, torch.cat([row[2 * rank : 2 * rank + 2] for row in rows]))
    outputs = [torch.zeros(2, 5) for _ in range(world)]
    group.alltoall(outputs, list(rows[rank].split(2))).wait()
    check(torch.cat(outputs), output)

    # Objects.
    objects: list[Any] = [None] * world
    dist.all_gather_object(objects, {"rank": rank, "text": "x" * 1000 * rank})
    assert [found["rank"] for found in objects] == list(range(world))
    assert [len(found["text"]) for found in objects] == [1000 * r for r in range(world)]
    objects = [("from 0", seed) if rank == 0 else None]
    dist.broadcast_object_list(objects)
    assert objects == [("from 0", seed)]
    objects = [None] * world
    dist.gather_object(rank, objects if rank == 0 else None)
    assert rank != 0 or objects == list(range(world))
    scattered_object: list[Any] = [None]
    dist.scatter_object_list(scattered_object, list("abcdef"[:world]) if rank == 0 else None)
    assert scattered_object == ["abcdef"[rank]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_other_forms_of_movements(world_size: int, seed: int) -> None:
    run_torch_job(world_size, other_forms, seed)


def refused(case: str) -> None:
    dist.init_process_group("pyparallel")
    two = [torch.zeros(3), torch.zeros(3)]
    {
        "lists": lambda: dist.all_gather(two[:1], torch.ones(3)),
        "sizes": lambda: dist.all_gather(two, torch.ones(4)),
        "one element": lambda: dist.all_gather([torch.zeros(4), torch.zeros(5)], torch.ones(1)),
        "scatter": lambda: dist.scatter(torch.zeros(2), two if dist.get_rank() == 0 else None),
        "indivisible": lambda: dist.all_to_all_single(torch.zeros(3), torch.ones(3)),
        "splits": lambda: dist.all_to_all_single(torch.zeros(3), torch.ones(3), [1, 1], [1, 2]),
        "root": lambda: dist.group.WORLD.broadcast(torch.ones(3), 2),  # type: ignore[union-attr]
        "sparse": lambda: dist.broadcast(torch.eye(3).to_sparse(), 0),
    }[case]()
    dist.barrier()


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("lists", "1 tensors for 2 ranks"),
        ("sizes", "input has 4 elements, its place in the outputs 3"),
        ("scatter", "tensors of 3 and 2 elements|scatter"),
        ("indivisible", r"dimension 0 of \(3,\) is not 2 equal parts"),
        ("one element", "input has 1 elements, its place in the outputs [45]"),
        ("splits", r"splits \[1, 1\] sum to 2, dimension 0 of the tensor has 3"),
        ("root", "root 2 is not in a world of 2"),
        ("sparse", "broadcast: the tensor is torch.sparse_coo"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values(case: str, message: str) -> None:
    for error in errors_of_ranks(2, refused, case):
        assert error is not None
        with pytest.raises(type(error), match=message + "|rank . left"):
            raise error
