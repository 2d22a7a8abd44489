"""GroupCommunicator over Gloo: the same values as shared memory gives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from pyparallel.comm import Communicator, GroupCommunicator, Premultiplied
from pyparallel.comm.communicator import Op
from ranks import run_ranks

EXPECTED: list[tuple[Op, float]] = [
    ("sum", 6.0),
    ("mean", 2.0),
    ("max", 3.0),
    ("min", 1.0),
    ("product", 6.0),
    (Premultiplied(0.5), 3.0),
]


def joined() -> GroupCommunicator:
    dist.init_process_group("gloo")
    assert dist.group.WORLD is not None
    return GroupCommunicator(dist.group.WORLD, torch.device("cpu"), owned=True)


def reductions() -> None:
    c = joined()
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64):
        for op, expected in EXPECTED:
            if dtype == torch.int64 and (op == "mean" or isinstance(op, Premultiplied)):
                with pytest.raises(ValueError, match="not an integer"):
                    c.all_reduce(torch.ones(2, dtype=dtype), op)
                continue
            own = torch.full((1000,), c.rank + 1).to(dtype)
            leaf = dtype.is_floating_point  # one that requires grad
            tensor = own.clone().requires_grad_(leaf)
            work = c.all_reduce(tensor, op)
            work.wait()
            assert work.is_completed()
            assert work.exception() is None
            assert 0 < work.started_ns <= work.ended_ns
            assert bool((tensor == expected).all()), (op, dtype)
            tensor = own.clone().requires_grad_(leaf)
            c.reduce(tensor, 1, op).wait()
            assert bool((tensor == (expected if c.rank == 1 else c.rank + 1)).all()), (op, dtype)
            part = torch.empty(10, dtype=dtype, requires_grad=leaf)
            c.reduce_scatter(part, own[:30], op).wait()
            assert bool((part == expected).all()), (op, dtype)
    with pytest.raises(ValueError, match="'avg' is none of"):
        c.all_reduce(torch.ones(2), "avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no algorithm 'ring'"):
        c.all_reduce(torch.ones(2), algorithm="ring")
    c.close()
    assert not dist.is_initialized()


def test_reductions_over_gloo_are_right() -> None:
    run_ranks(3, reductions)


def half_sums() -> None:
    """256 + 1/2 + 1/2 is 257 in float32; 16 bits lose a half at each addition."""
    c = joined()
    tensor = torch.full((5,), 256.0 if c.rank == 0 else 0.5, dtype=torch.bfloat16)
    c.all_reduce(tensor).wait()
    assert tensor.tolist() == [torch.tensor(257.0).bfloat16().item()] * 5
    tensor = torch.full((5,), 60000.0, dtype=torch.float16)
    c.all_reduce(tensor, "mean").wait()
    assert tensor.tolist() == [torch.tensor(60000.0).half().item()] * 5
    c.close()


def test_sums_of_16_bit_floats_do_not_round_or_overflow_on_the_way() -> None:
    run_ranks(3, half_sums)


def moves() -> None:
    c: Communicator = joined()
    rank, size = c.rank, c.world_size
    tensor = torch.full((10,), float(rank))
    c.broadcast(tensor, 1).wait()
    assert bool((tensor == 1).all())
    whole = torch.empty(size * 2, requires_grad=True)
    own = torch.full((2,), float(rank), requires_grad=True)
    c.all_gather(whole, own).wait()
    assert whole.tolist() == [0, 0, 1, 1, 2, 2]
    whole.data.zero_()
    c.gather(whole if rank == 2 else None, own, 2).wait()
    assert whole.tolist() == ([0, 0, 1, 1, 2, 2] if rank == 2 else [0] * 6)
    c.scatter(own, torch.arange(6.0) if rank == 1 else None, 1).wait()
    assert own.tolist() == [2 * rank, 2 * rank + 1]
    with pytest.raises(ValueError, match=r"None on all ranks but the root 0|needs output"):
        c.gather(None if rank == 0 else whole, own)
    # Rank a sends a + b elements of value 10 a + b to rank b.
    sizes = [rank + other for other in range(size)]
    parts = [torch.full((rank + other,), 10.0 * rank + other) for other in range(size)]
    output = torch.empty(sum(sizes), requires_grad=True)
    c.all_to_all(output, torch.cat(parts), output_sizes=sizes, input_sizes=sizes).wait()
    received = [torch.full((rank + other,), 10.0 * other + rank) for other in range(size)]
    assert torch.equal(output, torch.cat(received))
    with pytest.raises(ValueError, match="sum to 1, the tensor has 2"):
        c.all_to_all(torch.empty(2), torch.empty(2), output_sizes=[1, 0, 0])
    c.barrier().wait()
    c.close()


def test_moves_over_gloo_are_right() -> None:
    run_ranks(3, moves)


def messages() -> None:
    c = joined()
    if c.rank == 0:
        tensors = [torch.empty(7), torch.empty(7)]
        works = [c.recv(tensor, None, tag=5) for tensor in tensors]
        for work in works:
            work.wait()
        assert sorted(work.source for work in works) == [1, 2]
        for work, tensor in zip(works, tensors, strict=True):
            assert bool((tensor == work.source).all())
        with pytest.raises(ValueError, match="rank 0 is this rank itself"):
            c.send(tensors[0], 0)
        with pytest.raises(ValueError, match="tag -1"):
            c.recv(tensors[0], 1, tag=-1)
    else:
        c.send(torch.full((7,), float(c.rank)), 0, tag=5).wait()
    c.close()


def test_messages_over_gloo_arrive() -> None:
    run_ranks(3, messages)
