"""Leaks: a planted one is found and named, and what only looks like one is not."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from pyparallel.memory import Block, LeakReport, MemoryPool, assert_no_leak


class Keeper:
    """In a cycle: its block is freed when garbage is collected."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool, self.block, self.itself = pool, pool.allocate(10), self

    def __del__(self) -> None:
        self.pool.free(self.block)


def leak(pool: MemoryPool, num_bytes: int) -> Block:
    return pool.allocate(num_bytes)


def judged(pool: MemoryPool, work: Callable[[], object]) -> str:
    """What is said of work that leaks."""

    def run() -> None:
        with assert_no_leak(pool):
            work()

    with pytest.raises(AssertionError) as raised:
        run()
    return str(raised.value)


def test_a_block_left_behind_is_named_with_its_bytes() -> None:
    pool = MemoryPool()
    before = pool.allocate(5)

    def work() -> None:
        pool.free(before)
        pool.free(pool.allocate(100))
        pool.allocate(7)
        leak(pool, 1000)
        leak(pool, 234)

    message = judged(pool, work)
    assert "1,241 bytes in 3 blocks are still live" in message
    assert "test_leaks.py" in message
    assert message.index(":leak") < message.index("7 bytes in 1 blocks")


def test_the_same_address_allocated_anew_is_a_leak_too() -> None:
    pool = MemoryPool()
    block = pool.allocate(64)

    def work() -> None:
        pool.free(block)
        assert pool.allocate(64).ptr == block.ptr

    assert "64 bytes in 1 blocks" in judged(pool, work)


def test_blocks_of_before_garbage_and_other_threads_are_judged_rightly() -> None:
    pool = MemoryPool()
    kept = [pool.allocate(64) for _ in range(10)]
    with assert_no_leak(pool):
        Keeper(pool)
        pool.free(kept.pop())
    thread = threading.Thread(target=leak, args=(pool, 3))
    assert "3 bytes in 1 blocks" in judged(pool, lambda: (thread.start(), thread.join()))


def test_an_exception_from_inside_passes() -> None:
    pool = MemoryPool()

    def work() -> None:
        with assert_no_leak(pool):
            leak(pool, 5)
            raise KeyError

    with pytest.raises(KeyError):
        work()


def test_a_running_recording_goes_on() -> None:
    pool = MemoryPool()
    with pool.record() as recording:
        with assert_no_leak(pool), LeakReport(pool):
            pool.free(pool.allocate(1))
        assert recording.is_open
    with assert_no_leak(pool), LeakReport(pool):
        assert not recording.is_open


def test_only_what_grows_is_reported(seed: int) -> None:
    random_ = random.Random(seed)
    pool = MemoryPool()
    num_bytes, kept, cache = random_.randrange(1, 9999), [], {}
    with LeakReport(pool, warmup=2) as report:
        for step in range(12):
            temporary = [pool.allocate(random_.randrange(9999)) for _ in range(5)]
            kept.append(leak(pool, num_bytes))  # the leak: one block a step
            cache.setdefault(min(step, 3), pool.allocate(50))  # warms up, then is full
            if step > 3:
                cache.update({3: pool.free(cache[3]) or pool.allocate(50)} if step % 2 else {})
            for block in temporary:
                pool.free(block)
            report.step()
        found = report.leaks()
    named = [found_leak for found_leak in found if found_leak.site[0].endswith(":leak")]
    assert [(one.bytes_per_step, one.blocks_per_step) for one in named] == [(num_bytes, 1)]
    assert (named[0].num_bytes, named[0].blocks) == (12 * num_bytes, 12)
    assert f"{num_bytes:+,} bytes and +1.00 blocks per step" in str(report)


def test_a_leak_every_third_step_is_one_and_a_sawtooth_is_none() -> None:
    pool = MemoryPool()
    wave: list[Block] = []
    with LeakReport(pool) as report:
        assert report.leaks() == []
        for step in range(13):
            if step % 3 == 0:
                leak(pool, 300)
            if len(wave) == 4:
                while wave:
                    pool.free(wave.pop())
            wave.append(pool.allocate(1 << 16))
            report.step()
        (only,) = report.leaks()
    assert only.site[0].endswith(":leak")
    assert only.bytes_per_step == pytest.approx(1200 / 11, rel=0.3)


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="window 2"):
        LeakReport(MemoryPool(), window=2)
    with pytest.raises(ValueError, match="warmup -1"):
        LeakReport(MemoryPool(), warmup=-1)
