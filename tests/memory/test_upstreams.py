"""Upstreams under a pool: pages come and go, other processes see them, forked children do not."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import threading
import time
from collections.abc import Callable

import pytest

import pyparallel
from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import Block, MemoryPool

PAGE = 2 << 20
HOST_UPSTREAMS = ["host", "shared"]
CUDA_UPSTREAMS = ["pinned", "cuda", "cuda-vmm"]


def fill(block: Block, mark: int) -> None:
    ctypes.memset(block.ptr, mark, block.num_bytes)


def holds(block: Block, mark: int) -> bool:
    return ctypes.string_at(block.ptr, block.num_bytes) == bytes([mark]) * block.num_bytes


def in_child(function: Callable[[], object]) -> str:
    """What the function raised in a forked child, or "worked"."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            function()
            os.write(writer, b"worked")
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:1000])
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read().decode()


@pytest.mark.parametrize("upstream", CUDA_UPSTREAMS)
def test_a_build_without_cuda_says_so(upstream: str) -> None:
    if pyparallel.features()["cuda"]:
        pytest.skip("this build has CUDA")
    with pytest.raises(ValueError, match=f"upstream '{upstream}': this build .* has no CUDA"):
        MemoryPool(upstream)


def test_a_negative_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device: -1 is negative"):
        MemoryPool("cuda", device=-1)


@pytest.mark.parametrize("upstream", HOST_UPSTREAMS)
def test_free_pages_go_back_from_inside_and_come_again(upstream: str) -> None:
    pool = MemoryPool(upstream)
    first, middle, last = (pool.allocate(3 * PAGE) for _ in range(3))
    fill(first, 1), fill(last, 3)
    pool.free(middle)
    assert pool.trim() == 3 * PAGE
    assert pool.statistics().reserved == 6 * PAGE
    again = pool.allocate(2 * PAGE + 5)
    assert again.ptr == middle.ptr
    assert pool.statistics().reserved == 9 * PAGE
    fill(again, 2)
    assert holds(first, 1)
    assert holds(again, 2)
    assert holds(last, 3)
    for block in (first, again, last):
        pool.free(block)
    assert pool.trim() == 9 * PAGE


@pytest.mark.parametrize("upstream", HOST_UPSTREAMS)
def test_random_blocks_and_trims_keep_every_byte(upstream: str, seed: int) -> None:
    draw = random.Random(seed)
    pool = MemoryPool(upstream, limit=24 << 20)
    live: list[tuple[Block, int]] = []
    for i in range(400):
        choice = draw.random()
        if choice < 0.5:
            try:
                block = pool.allocate(draw.randrange(1 << draw.randrange(1, 23)))
            except OutOfMemoryError:
                continue
            live.append((block, i % 251))
            fill(*live[-1])
        elif choice < 0.9 and live:
            block, mark = live.pop(draw.randrange(len(live)))
            assert holds(block, mark)
            pool.free(block)
        else:
            before = pool.statistics()
            assert pool.statistics().reserved - pool.trim() == pool.statistics().reserved
            assert pool.statistics().reserved - before.live < PAGE * (len(live) + 1) * 2
        assert pool.statistics().reserved <= 24 << 20
    for block, mark in live:
        assert holds(block, mark)


# ---- shared ----


def test_other_processes_find_a_block_by_file_and_offset() -> None:
    pool = MemoryPool("shared")
    early = pool.allocate(1000)
    place = pool.locate(early)
    assert place is not None
    blocks = [early, *(pool.allocate(size) for size in (0, 1, PAGE - 1, 5 * PAGE))]
    assert pool.locate(early) == place  # where it was before the pool grew
    for mark, block in enumerate(blocks, 1):
        fill(block, mark)
        found = pool.locate(block)
        assert found is not None
        fd, offset = found
        path = f"/proc/{os.getpid()}/fd/{fd}"

        def read(path: str = path, block: Block = block, offset: int = offset) -> None:
            with open(path, "rb") as file:
                data = os.pread(file.fileno(), block.num_bytes, offset)
            assert data == ctypes.string_at(block.ptr, block.num_bytes)

        assert in_child(read) == "worked"


def test_private_memory_has_no_place() -> None:
    pool = MemoryPool("host")
    block = pool.allocate(1)
    assert pool.locate(block) is None
    pool.free(block)
    with pytest.raises(ValueError, match="no live block"):
        pool.locate(block)


# ---- fork ----


@pytest.mark.parametrize("upstream", HOST_UPSTREAMS)
def test_a_forked_child_neither_uses_nor_frees_its_parents_pool(upstream: str) -> None:
    pools = [MemoryPool(upstream)]
    block = pools[0].allocate(3 * PAGE)
    idle = pools[0].allocate(3 * PAGE)
    pools[0].free(idle)
    fill(block, 7)
    calls: list[Callable[[], object]] = [
        lambda: pools[0].allocate(10),
        lambda: pools[0].free(block),
        lambda: pools[0].trim(),
        lambda: pools[0].statistics(),
        lambda: pools[0].locate(block),
    ]
    for call in calls:
        message = in_child(call)
        assert "ValueError" in message, message
        assert f"belongs to process {os.getpid()}; a forked child" in message

    def drop() -> None:
        pools.clear()
        gc.collect()
        own = MemoryPool(upstream)
        fill(own.allocate(100), 9)

    assert in_child(drop) == "worked"
    assert holds(block, 7)
    pools[0].free(block)
    assert pools[0].trim() == 6 * PAGE


# ---- threads ----


def test_a_thread_that_ends_hands_back_what_it_kept() -> None:
    pool = MemoryPool("host")
    kept: list[int] = []

    def use() -> None:
        blocks = [pool.allocate(4096) for _ in range(5)]
        kept.extend(block.ptr for block in blocks)
        for block in blocks:
            pool.free(block)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    deadline = time.monotonic() + 60  # join() returns a little before the thread has ended
    while (s := pool.statistics()).free != PAGE and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (s.live, s.free, s.allocations, s.frees) == (0, PAGE, 5, 5)
    assert pool.allocate(4096).ptr in kept


# ---- out of memory ----


def test_the_callback_may_free_and_have_it_tried_again() -> None:
    pool = MemoryPool("host", limit=4 * PAGE)
    spare = [pool.allocate(PAGE) for _ in range(4)]
    asked: list[int] = []

    def free_one(num_bytes: int) -> bool:
        asked.append(num_bytes)
        assert pool.statistics().reserved <= 4 * PAGE  # no lock is held
        if spare:
            pool.free(spare.pop())
        return len(asked) < 10

    pool.on_failure(free_one)
    block = pool.allocate(2 * PAGE - 100)
    assert asked == [2 * PAGE - 100] * 2
    spare.clear()
    with pytest.raises(OutOfMemoryError, match=f"{3 * PAGE} bytes asked for; {4 * PAGE} bytes are"):
        pool.allocate(3 * PAGE)
    assert len(asked) == 10
    pool.on_failure(None)
    with pytest.raises(OutOfMemoryError):
        pool.allocate(3 * PAGE)
    assert len(asked) == 10
    pool.free(block)


def test_a_callback_that_frees_nothing_is_not_asked_for_ever() -> None:
    pool = MemoryPool("host", limit=40 * PAGE)
    spare = [pool.allocate(PAGE) for _ in range(40)]
    asked: list[int] = []

    def free_one(num_bytes: int) -> bool:
        asked.append(num_bytes)
        if spare:
            pool.free(spare.pop())
        return True

    pool.on_failure(free_one)
    pool.allocate(30 * PAGE)  # each call frees something: any number of them
    assert len(asked) == 30
    with pytest.raises(OutOfMemoryError):
        pool.allocate(11 * PAGE)
    assert len(asked) == 30 + 10 + 16


def test_what_the_callback_raises_arrives() -> None:
    pool = MemoryPool("host", limit=PAGE)

    def fail(num_bytes: int) -> bool:
        raise KeyError(num_bytes)

    pool.on_failure(fail)
    with pytest.raises(KeyError, match=str(2 * PAGE)):
        pool.allocate(2 * PAGE)
    pool.free(pool.allocate(PAGE))


def test_the_error_names_who_holds_most() -> None:
    pool = MemoryPool("host", limit=4 * PAGE)
    with pool.record():
        small, large = pool.allocate(PAGE), pool.allocate(2 * PAGE)
        pool.free(pool.allocate(PAGE))
        with pytest.raises(OutOfMemoryError, match=f"the largest hole has {PAGE}") as caught:
            pool.allocate(2 * PAGE)
    lines = str(caught.value).splitlines()[1:]
    assert all("test_upstreams.py" in line for line in lines), lines
    assert lines
    assert caught.value.requested == 2 * PAGE
    assert caught.value.available == PAGE
    pool.free(small)
    pool.free(large)


# ---- numbers ----


def test_statistics_know_classes_streams_and_why_a_pool_grew() -> None:
    pool = MemoryPool("host", for_graph=True)  # which gives no pages back before it grows
    small = [pool.allocate(1000, stream=1) for _ in range(3)]
    large = [pool.allocate(3 << 20, stream=2) for _ in range(2)]
    pool.free(small.pop())
    pool.free(large.pop(0))
    s = pool.statistics()
    assert (s.small.live, s.small.live_peak, s.small.allocated, s.small.freed) == (
        2 * 1024,
        3 * 1024,
        3 * 1024,
        1024,
    )
    assert (s.large.live, s.large.live_peak) == (3 << 20, 6 << 20)
    assert (s.large.allocations, s.large.frees) == (2, 1)
    by_stream = {entry.stream: entry for entry in pool.stream_statistics()}
    assert by_stream[1].live == 2 * 1024
    assert (by_stream[2].live, by_stream[2].largest_hole >= 3 << 20) == (3 << 20, True)
    # Of another stream than the one that asks, and too small at that.
    before = pool.statistics()
    pool.allocate(40 << 20, stream=1)
    idle = pool.statistics().idle_at_peak
    assert idle.hard + idle.stream + idle.cached + idle.soft == before.reserved - before.live
    assert (idle.cached, idle.soft) == (0, 0)  # caches are emptied before a pool grows
    assert idle.stream >= 3 << 20


def test_a_block_is_freed_once_although_its_address_is_used_again() -> None:
    pool = MemoryPool("host")
    block = pool.allocate(3000)
    pool.free(block)
    other = pool.allocate(3000)
    assert other.ptr == block.ptr
    with pytest.raises(ValueError, match=f"{block.ptr:#x} is no live block of this pool: freed"):
        pool.free(block)
    pool.free(other)


def test_a_pool_for_a_graph_keeps_its_memory() -> None:
    pool = MemoryPool("host", for_graph=True, limit=8 << 20)
    pool.free(pool.allocate(5 << 20))
    assert pool.trim() == 0
    assert pool.statistics().reserved == 6 << 20
