"""Sends and receives: right values for any size, memory and order; never in each other's way."""

from __future__ import annotations

import random
import time
from typing import Any

import psutil
import pytest
import torch

import pyparallel
from pyparallel.comm import ShmCommunicator
from pyparallel.errors import CollectiveMismatchError, CollectiveTimeoutError, PeerLostError
from ranks import Job, errors_of_ranks, meet, run_ranks, tell_test

# Around the inbox's slot (4 KiB), the chunk and the bounce buffer (128 and 256 KiB), in bytes.
SIZES = (0, 1, 7, 4096, 4097, 128 << 10, (128 << 10) + 3, 256 << 10, 700_001)


def communicator() -> ShmCommunicator:
    found = pyparallel.init().communicator
    assert isinstance(found, ShmCommunicator)
    return found


def tensor_of(c: ShmCommunicator, values: torch.Tensor, shared: bool) -> torch.Tensor:
    """A copy in ordinary or shared memory, at an odd place there."""
    if not shared:
        return values.clone()
    whole = c.empty(values.numel() + 3, dtype=values.dtype)
    whole[3:].copy_(values)
    return whole[3:]


def around_the_ring(seed: int) -> None:
    c = communicator()
    common = random.Random(seed)
    for size in SIZES:
        for dtype in (torch.uint8, torch.bfloat16, torch.float64, torch.int64):
            count = size // dtype.itemsize
            values = torch.randint(0, 100, (count,), generator=torch.manual_seed(size)).to(dtype)
            from_shared, to_shared = common.random() < 0.5, common.random() < 0.5
            sent = tensor_of(c, values + c.rank, from_shared)
            got = tensor_of(c, torch.zeros_like(values), to_shared)
            version = got._version
            works = [c.recv(got, (c.rank - 1) % c.world_size, tag=3)]
            works.append(c.send(sent, (c.rank + 1) % c.world_size, tag=3))
            for work in works if common.random() < 0.5 else reversed(works):
                work.wait()
            assert torch.equal(got, values + (c.rank - 1) % c.world_size), (size, dtype)
            assert got._version > version
            assert works[0].source == (c.rank - 1) % c.world_size
            assert works[1].source is None
            assert all(work.is_completed() and work.exception() is None for work in works)
            assert 0 < works[0].started_ns <= works[0].ended_ns


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_size_dtype_and_memory_arrives(world_size: int, seed: int) -> None:
    run_ranks(world_size, around_the_ring, seed)


def mixed_with_collectives(seed: int) -> None:
    """Random messages between all pairs, started and waited for in any order, and collectives."""
    c = communicator()
    common, own = random.Random(seed), random.Random(seed + c.rank)
    for _ in range(6):
        sizes = [common.choice([1, 100, 2000, 100_000, 300_000]) for _ in range(5)]
        works: list[tuple[Any, torch.Tensor, float]] = []
        for tag, size in enumerate(sizes):
            for peer in range(c.world_size):
                if peer != c.rank:
                    sent = torch.full((size,), float(10 * c.rank + tag))
                    got = torch.zeros(size)
                    calls = [
                        lambda s=sent, p=peer, t=tag: (c.send(s, p, tag=t), s, float(s[0])),
                        lambda g=got, p=peer, t=tag: (c.recv(g, p, tag=t), g, 10.0 * p + t),
                    ]
                    own.shuffle(calls)
                    works += [call() for call in calls]
        total = torch.ones(own.choice([10]) * 5000)
        reduced = c.all_reduce(total, background=own.random() < 0.5)
        own.shuffle(works)
        works.insert(own.randrange(len(works)), (reduced, total, float(c.world_size)))
        for work, tensor, expected in works:
            work.wait()
            assert bool((tensor == expected).all()), (tensor[0].item(), expected)


@pytest.mark.parametrize("world_size", [2, 4])
def test_messages_and_collectives_do_not_block_each_other(world_size: int, seed: int) -> None:
    run_ranks(world_size, mixed_with_collectives, seed)


def from_anyone() -> list[int]:
    c = communicator()
    if c.rank != 0:
        for size in (5, 50_000):
            c.send(torch.full((size,), float(c.rank)), 0, tag=size).wait()
        c.barrier().wait()
        return []
    sources = []
    for size in (50_000, 5):  # the other order
        for _ in range(1, c.world_size):
            tensor = torch.zeros(size)
            work = c.recv(tensor, None, tag=size)
            work.wait()
            assert work.source is not None
            assert bool((tensor == work.source).all())
            sources.append(work.source)
    c.barrier().wait()
    return sources


def test_any_source_takes_each_rank_once() -> None:
    sources = run_ranks(4, from_anyone)[0]
    assert sorted(sources[:3]) == [1, 2, 3]
    assert sorted(sources[3:]) == [1, 2, 3]


def progress_without_waiting() -> float:
    """Rank 1 is in a collective; rank 0 comes to it only when its large send was taken."""
    c = communicator()
    tensor = torch.full((400_000,), float(c.rank == 0))
    start = time.monotonic()
    work = c.send(tensor, 1) if c.rank == 0 else c.recv(tensor, 0)
    if c.rank == 0:
        work.wait()
    c.barrier().wait()
    work.wait()
    assert bool((tensor == 1).all())
    return time.monotonic() - start


def test_a_receive_moves_while_its_rank_waits_for_something_else() -> None:
    assert max(run_ranks(2, progress_without_waiting)) < 10


def idle_receive() -> float:
    c = communicator()
    c.barrier().wait()
    if c.rank == 0:
        time.sleep(1.5)
        c.send(torch.ones(3), 1).wait()
        return 0.0
    before = psutil.Process().cpu_times()
    background = c.recv(torch.zeros(3), 0)
    time.sleep(0.7)
    background.wait()
    after = psutil.Process().cpu_times()
    return after.user + after.system - before.user - before.system


def test_a_pending_receive_does_not_burn_a_core() -> None:
    assert run_ranks(2, idle_receive)[1] < 0.15


def one_copy(shared: bool) -> tuple[int, int]:
    """Pages that this rank touched while a large message passed: its own memory and no more."""
    c = communicator()
    size = 16 << 20
    tensor = c.empty(size, dtype=torch.uint8) if shared else torch.zeros(size, dtype=torch.uint8)
    tensor.fill_(c.rank)
    c.barrier().wait()
    before = psutil.Process().memory_info()
    (c.send(tensor, 1) if c.rank == 0 else c.recv(tensor, 0)).wait()
    after = psutil.Process().memory_info()
    assert bool((tensor == 0).all())
    return after.shared - before.shared, after.rss - before.rss


def test_private_messages_pass_through_a_small_buffer() -> None:
    for shared, rss in run_ranks(2, one_copy, False):
        assert shared < 1 << 20
        assert rss < 4 << 20


def refusals() -> None:
    c = communicator()
    tensor, other = torch.ones(10), 1 - c.rank
    with pytest.raises(ValueError, match="rank 2 is not in a world of 2"):
        c.send(tensor, 2)
    with pytest.raises(ValueError, match="this rank itself"):
        c.recv(tensor, c.rank)
    with pytest.raises(ValueError, match="tag -1"):
        c.send(tensor, other, tag=-1)
    with pytest.raises(ValueError, match="not contiguous"):
        c.recv(torch.ones(4, 4).t(), other)
    with pytest.raises(ValueError, match=r"null pointer|meta"):
        c.send(torch.ones(3, device="meta"), other)
    work = c.recv(tensor, other)  # all is well after it
    c.send(torch.zeros(10), other).wait()
    work.wait()
    assert tensor.sum().item() == 0


def test_bad_arguments_are_refused_by_name_and_harm_nobody() -> None:
    run_ranks(2, refusals)


def disagree(size: int, odd: str) -> None:
    c = communicator()
    dtype = torch.int32 if odd == "dtype" and c.rank == 1 else torch.float32
    tensor = torch.zeros(size + (odd == "size" and c.rank == 1), dtype=dtype)
    (c.send(tensor, 1, tag=4) if c.rank == 0 else c.recv(tensor, 0, tag=4)).wait()
    time.sleep(0.3)  # a small send was complete at once: its rank hears of it at its next message
    c.recv(torch.zeros(1), 1 - c.rank).wait()


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("odd", ["size", "dtype"])
def test_sides_that_disagree_are_both_told_both(size: int, odd: str) -> None:
    for error in errors_of_ranks(2, disagree, size, odd):
        assert isinstance(error, CollectiveMismatchError), error
        assert f"rank 0 sent {size} x float32" in str(error)
        receives = f"{size} x int32" if odd == "dtype" else f"{size + 1} x float32"
        assert f"rank 1 receives {receives}" in str(error)


def wait_in_vain() -> None:
    meet("started")
    context = pyparallel.init(timeout_seconds=2)
    try:
        if context.rank == 0:
            context.communicator.recv(torch.ones(5), 1, tag=8).wait()
    finally:
        meet("over")


def test_a_silent_sender_is_named_at_the_deadline() -> None:
    error = errors_of_ranks(2, wait_in_vain)[0]
    assert isinstance(error, CollectiveTimeoutError)
    assert "2000 ms in recv(5 x float32, from rank 1, tag 8)" in str(error)


def messages_forever(size: int) -> None:
    c = communicator()
    c.barrier().wait()
    tell_test("ready")
    tensor, other = torch.ones(size), torch.ones(size)
    while True:
        works = [c.recv(tensor, (c.rank - 1) % c.world_size)]
        works.append(c.send(other, (c.rank + 1) % c.world_size))
        for work in works:
            work.wait()


@pytest.mark.parametrize("size", [10, 300_000])
def test_a_killed_rank_is_named_by_those_it_did_not_talk_to(size: int, seed: int) -> None:
    choose = random.Random(seed)
    with Job(4, messages_forever, size) as job:
        for rank in range(4):
            job.receive(rank)
        time.sleep(choose.random() * 0.2)
        killed = job.kill(2)
        outcomes = job.outcomes()
    for outcome in outcomes:
        if outcome.rank != 2:
            assert isinstance(outcome.error, PeerLostError), outcome.error
            assert outcome.error.rank == 2
            assert outcome.ended_ns - killed < 2_000_000_000


def send_and_leave() -> float:
    c = communicator()
    meet("joined")
    if c.rank == 0:
        c.send(torch.full((9,), 4.0), 1).wait()
        c.close()
    meet("left")
    if c.rank == 0:
        return 4.0
    tensor = torch.zeros(9)
    c.recv(tensor, 0).wait()
    with pytest.raises(PeerLostError, match=r"rank 0 .* left"):
        c.recv(tensor, 0).wait()
    return tensor.mean().item()


def test_what_was_sent_before_leaving_arrives() -> None:
    assert run_ranks(2, send_and_leave) == [4.0, 4.0]
