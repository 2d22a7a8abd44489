"""Python threads on one pool: nothing is lost, and the GIL is never wanted under its lock."""

from __future__ import annotations

import ctypes
import gc
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from pyparallel._native import core
from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import Block, MemoryPool, snapshot, use_in_numpy

DEADLINE = 120.0  # seconds


def run_threads(*work: Callable[[], None]) -> None:
    """Runs each in a thread of its own; raises what the first of them raises."""
    failures: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive(), "a thread hangs"
    if failures:
        raise failures[0]


class Cycle:
    """Owns a block, and frees it when the garbage collector finds the cycle: in any call."""

    def __init__(self, pool: MemoryPool, block: Block) -> None:
        self.pool, self.block, self.itself = pool, block, self

    def __del__(self) -> None:
        self.pool.free(self.block)


@pytest.mark.parametrize("recorded", [False, True])
def test_callbacks_finalizers_and_listings_take_no_locks_in_both_orders(recorded: bool) -> None:
    pool = MemoryPool(limit=16 << 20)
    calls = 0

    def collect(num_bytes: int) -> bool:
        nonlocal calls
        calls += 1
        pool.statistics()  # no lock is held while Python runs
        return gc.collect() > 0

    def allocate() -> None:
        for _ in range(30):
            try:
                Cycle(pool, pool.allocate(3 << 20))
                pool.free(pool.allocate(9 << 20))
            except OutOfMemoryError:
                gc.collect()

    def look() -> None:
        for _ in range(30):
            statistics = pool.statistics()
            assert statistics.reserved <= 16 << 20
            pool.native.blocks()
            pool.trim()

    recording = pool.record() if recorded else None
    pool.on_failure(collect)
    gc.freeze()  # what others made is not looked at
    gc.disable()  # garbage stays until memory is short
    try:
        run_threads(allocate, allocate, look)
    finally:
        gc.enable()
        gc.unfreeze()
        pool.on_failure(None)
    assert calls > 0
    gc.collect()
    if recording is not None:
        recording.close()
    assert pool.statistics().live == 0
    pool.trim()
    assert pool.statistics().reserved == 0


def test_threads_free_each_others_blocks(seed: int) -> None:
    pool = MemoryPool()
    exchange: queue.SimpleQueue[tuple[Block, int]] = queue.SimpleQueue()

    def work(own_seed: float) -> None:
        draw = random.Random(own_seed)
        for _ in range(400):
            block = pool.allocate(draw.randrange(1 << draw.randrange(18)), stream=draw.randrange(3))
            mark = draw.randrange(256)
            ctypes.memset(block.ptr, mark, block.num_bytes)
            exchange.put((block, mark))
            other, mark = exchange.get()
            read = ctypes.string_at(other.ptr, other.num_bytes)
            assert read == bytes([mark]) * other.num_bytes
            pool.free(other, stream=draw.choice([None, 0, 1, 2]))

    for generation in range(2):  # the caches of the first have no thread any more
        draw = random.Random(seed + generation)
        run_threads(*[partial(work, draw.random()) for _ in range(4)])
    statistics = pool.statistics()
    assert (statistics.live, statistics.allocations) == (0, statistics.frees)
    pool.trim()
    assert pool.statistics().reserved == 0


def test_of_many_threads_that_free_one_block_one_succeeds() -> None:
    pool = MemoryPool()
    for _ in range(50):
        block = pool.allocate(1000)
        start, refused = threading.Barrier(4), []

        def free(
            block: Block = block, start: threading.Barrier = start, refused: list[str] = refused
        ) -> None:
            start.wait(DEADLINE)
            try:
                pool.free(block)
            except ValueError as error:
                refused.append(str(error))

        run_threads(*[free] * 4)
        assert len(refused) == 3, refused
    assert pool.statistics().live == 0


class Interposed:
    """A native pool with other functions in place of some of its own."""

    def __init__(self, native: core.Pool, **functions: Callable[..., Any]) -> None:
        self._native = native
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)


def test_a_second_free_spares_the_block_that_has_the_address_next() -> None:
    pool = MemoryPool()
    native, block = pool.native, pool.allocate(1000)
    others: list[Block] = []

    def free(data: int) -> None:  # what other threads may do before the first free has returned
        native.free(data)
        others.append(pool.allocate(1000))
        with pytest.raises(ValueError, match="freed before"):
            pool.free(block)

    pool.native = Interposed(native, free=free)  # type: ignore[assignment]
    pool.free(block)
    (other,) = others
    assert other.ptr == block.ptr
    assert pool.statistics().live == 1024
    pool.native = native
    pool.free(other)


def test_whatever_threads_do_at_once_memory_is_nobody_elses(seed: int) -> None:
    pool = MemoryPool()
    shelf: queue.SimpleQueue[tuple[Any, np.ndarray, int]] = queue.SimpleQueue()

    def put(draw: random.Random) -> None:
        size, mark = draw.randrange(1, 1 << draw.randrange(1, 19)), draw.randrange(256)
        kind = draw.randrange(3)
        if kind == 0:
            owner: Any = pool.allocate(size, stream=draw.randrange(2))
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(owner.ptr))
        elif kind == 1:
            owner = pool.tensor(size, dtype=torch.uint8)
            memory = owner.numpy()
        else:
            with use_in_numpy(pool):
                owner = memory = np.empty(size, np.uint8)
        memory[:] = mark
        shelf.put((owner, memory, mark))

    def take(draw: random.Random) -> None:
        owner, memory, mark = shelf.get()
        assert (memory == mark).all()
        if isinstance(owner, Block):
            pool.free(owner)
            with pytest.raises(ValueError, match="freed before"):
                pool.free(owner)

    def look(draw: random.Random) -> None:
        with pool.record(max_events=256, frames=draw.randrange(4)):
            pool.free(pool.allocate(draw.randrange(1 << 16)))
            found = snapshot(pool)
            assert all(s["active_size"] <= s["total_size"] for s in found["segments"])
        statistics = pool.statistics()
        assert statistics.reserved <= statistics.reserved_peak
        pool.stream_statistics()
        pool.trim()

    def work(own_seed: float) -> None:
        draw = random.Random(own_seed)
        for _ in range(150):
            put(draw)
            if draw.random() < 0.05:
                look(draw)
            take(draw)

    draw = random.Random(seed)
    run_threads(*[partial(work, draw.random()) for _ in range(4)])
    gc.collect()
    statistics = pool.statistics()
    assert (statistics.live, statistics.allocations) == (0, statistics.frees)
    pool.trim()
    assert pool.statistics().reserved == 0


AT_EXIT = """
import threading
from pyparallel.memory import MemoryPool
pool, counts = MemoryPool(), [0] * 3
def work(number):
    while True:
        pool.free(pool.allocate(1 << 21 if counts[number] % 9 == 0 else 4096))
        counts[number] += 1
for number in range(3):
    threading.Thread(target=work, args=(number,), daemon=True).start()
while min(counts) < 100:
    pass
print("going", flush=True)
"""


def test_daemon_threads_in_the_pool_do_not_hinder_the_exit() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "going\n", "")
