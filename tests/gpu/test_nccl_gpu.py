"""NCCL on a device: several ranks share it, so one GPU is enough to run every operation."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist

import pyparallel
from pyparallel.comm import NcclCommunicator, Premultiplied
from pyparallel.errors import CollectiveTimeoutError, NcclError, PeerFailedError, PeerLostError
from ranks import Job, run_ranks, tell_test

REFUSED = "NCCL does not let ranks share a device here"


def environment(rank: int) -> dict[str, str]:
    """Recent NCCL allows it by name; older ones believe in a host of its own for every rank."""
    return {
        "LOCAL_RANK": "0",
        "NCCL_MULTI_RANK_GPU_ENABLE": "1",
        "NCCL_HOSTID": f"host{rank}",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_IB_DISABLE": "1",
    }


def communicator() -> NcclCommunicator:
    found = pyparallel.init(device="cuda:0").communicator
    assert isinstance(found, NcclCommunicator)
    return found


def guarded(body: Callable[..., Any], *arguments: Any) -> Any:
    """In a rank: what `body` returns, or that NCCL refused."""
    try:
        own = communicator()
        own.all_reduce(torch.ones(1, device="cuda")).wait()
        torch.cuda.synchronize()
    except (NcclError, PeerFailedError) as error:
        if not any(words in str(error) for words in ("Duplicate GPU", "invalid usage")):
            raise
        return f"{REFUSED}: {error}"
    return body(own, *arguments)


def run(world_size: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    values = run_ranks(world_size, guarded, body, *arguments, environment=environment, timeout=180)
    for value in values:
        if isinstance(value, str) and value.startswith(REFUSED):
            pytest.skip(value)
    return values


# ---- one rank, which no NCCL refuses ----


@pytest.mark.parametrize("algorithm", ["auto", "ring", "direct"])
def test_one_rank_is_a_world(device: torch.device, algorithm: Any) -> None:
    own = NcclCommunicator(
        dist.HashStore(), rank=0, world_size=1, device=device, timeout_seconds=60
    )
    tensor = torch.randn(1001, device=device)
    expected = tensor * 0.5
    own.all_reduce(tensor, Premultiplied(0.5), algorithm=algorithm).wait()
    assert torch.equal(tensor, expected)
    work = own.barrier()
    torch.cuda.synchronize()
    assert 0 < work.started_ns <= work.ended_ns
    assert abs(time.monotonic_ns() - work.ended_ns) < 5_000_000_000
    own.close()
    with pytest.raises(ValueError, match="closed"):
        own.barrier()


# ---- several ranks ----


def inputs(seed: int, rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed * 1000 + rank)
    return torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)


def reductions(own: NcclCommunicator, seed: int) -> None:
    n = own.world_size
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.1), (torch.float64, 1e-12)):
        for count in (0, 1, 1003, 300_001):
            parts = [inputs(seed, rank, count * n, dtype) for rank in range(n)]
            total = torch.stack([part.double() for part in parts]).sum(0)
            for algorithm in ("nccl", "ring", "direct"):
                tensor = late(parts[own.rank])
                own.all_reduce(tensor, "mean", algorithm=algorithm).wait()
                torch.testing.assert_close(tensor.double().cpu(), total / n, rtol=0, atol=tolerance)
                output = torch.full((count,), float("nan"), dtype=dtype, device="cuda")
                own.reduce_scatter(output, late(parts[own.rank]), algorithm=algorithm).wait()
                expected = total.view(n, count)[own.rank]
                torch.testing.assert_close(
                    output.double().cpu(), expected, rtol=0, atol=tolerance * n
                )


def late(values: torch.Tensor) -> torch.Tensor:
    """On the device only after a while: what does not wait for the stream reads NaN."""
    tensor = torch.full(values.shape, float("nan"), dtype=values.dtype, device="cuda")
    torch.cuda._sleep(2_000_000)
    tensor.copy_(values.pin_memory(), non_blocking=True)
    return tensor


@pytest.mark.parametrize("world_size", [2, 3])
def test_reductions_equal_their_definition(
    device: torch.device, world_size: int, seed: int
) -> None:
    run(world_size, reductions, seed % 1000)


def bits(own: NcclCommunicator, seed: int) -> None:
    """Direct is the sum in rank order; the ring's chunk c is that in the order c + 1, ..., c."""
    n, count = own.world_size, 12_345
    parts = [inputs(seed, rank, count * n, torch.float32) for rank in range(n)]
    for algorithm in ("direct", "ring"):
        output = torch.empty(count, device="cuda")
        squares = torch.empty(2, dtype=torch.float64, device="cuda")
        for _ in range(3):
            own.reduce_scatter(
                output, late(parts[own.rank]), algorithm=algorithm, squares=squares
            ).wait()
            first = 0 if algorithm == "direct" else own.rank + 1
            order = [(first + k) % n for k in range(n)]
            expected = parts[order[0]].view(n, count)[own.rank].clone()
            for rank in order[1:]:
                expected += parts[rank].view(n, count)[own.rank]
            assert torch.equal(output.cpu(), expected)
            measured = squares.cpu()
            assert measured[1] == 0
            torch.testing.assert_close(
                measured[0], expected.double().square().sum(), rtol=1e-6, atol=0
            )


def test_our_algorithms_give_the_same_bits_in_every_run(device: torch.device, seed: int) -> None:
    run(3, bits, seed % 1000)


def moves(own: NcclCommunicator) -> None:
    n, rank = own.world_size, own.rank
    mine = late(torch.full((5,), float(rank)))
    everyone = torch.arange(n, device="cuda", dtype=torch.float32).repeat_interleave(5)
    output = torch.empty(5 * n, device="cuda")
    own.all_gather(output, mine).wait()
    assert torch.equal(output, everyone)
    tensor = late(torch.full((7,), float(rank)))
    own.broadcast(tensor, 1).wait()
    assert torch.equal(tensor, torch.ones_like(tensor))
    gathered = torch.empty(5 * n, device="cuda") if rank == 1 else None
    own.gather(gathered, mine, 1).wait()
    assert gathered is None or torch.equal(gathered, everyone)
    part = torch.empty(5, device="cuda")
    own.scatter(part, late(everyone.cpu()) if rank == 0 else None).wait()
    assert torch.equal(part, mine)
    sizes = [rank + other for other in range(n)]
    exchanged = torch.empty(sum(sizes), device="cuda")
    sent = late(torch.full((sum(sizes),), float(rank)))
    own.all_to_all(exchanged, sent, output_sizes=sizes, input_sizes=sizes).wait()
    expected = [torch.full((size,), float(other)) for other, size in enumerate(sizes)]
    assert torch.equal(exchanged.cpu(), torch.cat(expected))


def test_data_moves_where_it_should(device: torch.device) -> None:
    run(3, moves)


def messages(own: NcclCommunicator) -> None:
    """Round the ring, every rank sending first, while a reduction is called in between."""
    after, before = (own.rank + 1) % own.world_size, (own.rank - 1) % own.world_size
    for turn in range(3):
        sent = late(torch.full((500_000,), float(own.rank + turn)))
        received = torch.empty_like(sent)
        sending = own.send(sent, after)
        if own.rank % 2:
            own.barrier().wait()
        receiving = own.recv(received, before)
        if not own.rank % 2:
            own.barrier().wait()
        receiving.wait()
        sending.wait()
        assert torch.equal(received, torch.full_like(received, float(before + turn)))


def test_messages_do_not_wait_for_each_other(device: torch.device) -> None:
    run(3, messages)


def split(own: NcclCommunicator) -> None:
    part = own.split(own.rank % 2, key=-own.rank)
    assert part is not None
    tensor = late(torch.tensor([float(own.rank)]))
    part.all_reduce(tensor).wait()
    assert tensor.item() == {0: 2.0, 1: 1.0}[own.rank % 2]
    assert part.rank == {0: 1, 1: 0, 2: 0}[own.rank]
    part.close()
    own.barrier().wait()
    torch.cuda.synchronize()


def test_parts_are_worlds_of_their_own(device: torch.device) -> None:
    run(3, split)


# ---- failures ----


def reduce_forever() -> Any:
    def forever(own: NcclCommunicator) -> None:
        tell_test("ready")
        tensor = torch.ones(100_000, device="cuda")
        while True:
            own.all_reduce(tensor, "max").wait()
            tensor[0].item()

    value = guarded(forever)
    tell_test(value)
    time.sleep(60)


def test_a_killed_rank_is_named_on_the_others(device: torch.device) -> None:
    with Job(3, reduce_forever, environment=environment) as job:
        for rank in range(3):
            message = job.receive(rank, timeout=120)
            if message != "ready":
                pytest.skip(message)
        time.sleep(0.3)
        killed = job.kill(1)
        outcomes = [job._links[rank].recv() for rank in (0, 2)]
    for kind, error, *_, ended_ns in outcomes:
        assert kind == "error"
        assert isinstance(error, PeerLostError), error
        assert error.rank == 1
        assert ended_ns - killed < 2_000_000_000


def silent(own: NcclCommunicator) -> str:
    if own.rank == 1:
        time.sleep(6)
        return ""
    own.all_reduce(torch.ones(3, device="cuda"))
    torch.cuda.synchronize()  # comes back, because the operation is aborted
    with pytest.raises(CollectiveTimeoutError) as caught:
        own.barrier()
    return str(caught.value)


def test_a_silent_rank_ends_in_a_timeout(device: torch.device) -> None:
    def impatient(rank: int) -> dict[str, str]:
        return {**environment(rank), "PYPARALLEL_TIMEOUT": "3"}

    values = run_ranks(2, guarded, silent, environment=impatient, timeout=120)
    if any(value.startswith(REFUSED) for value in values):
        pytest.skip(str(values))
    assert "rank 0 waited 3000 ms for the other ranks in all_reduce(3 x float32)" in values[0]


def test_the_named_library_must_exist(device: torch.device) -> None:
    (text,) = run_ranks(1, refusal, timeout=60)
    assert "/nowhere/libnccl.so.2 (PYPARALLEL_NCCL_LIBRARY)" in text


def refusal() -> str:
    os.environ["PYPARALLEL_NCCL_LIBRARY"] = "/nowhere/libnccl.so.2"
    with pytest.raises(NcclError) as caught:
        NcclCommunicator(
            dist.HashStore(),
            rank=0,
            world_size=1,
            device=torch.device("cuda", 0),
            timeout_seconds=10,
        )
    return str(caught.value)
