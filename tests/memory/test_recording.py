"""Recording: every block knows who asked for it, what is lost is counted, nothing deadlocks."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator

import pytest

from pyparallel.memory import Block, MemoryPool, assert_no_leak, snapshot


def sites(pool: MemoryPool) -> dict[int, list[tuple[str, int]]]:
    """Frames (function, line) of the live blocks by address."""
    return {
        block["address"]: [(frame["name"], frame["line"]) for frame in block["frames"]]
        for segment in snapshot(pool)["segments"]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }


def inner(pool: MemoryPool) -> Block:
    return pool.allocate(100)


def outer(pool: MemoryPool) -> Block:
    return inner(pool)


def blocks(pool: MemoryPool) -> Iterator[Block]:
    while True:
        yield inner(pool)


LINE = inner.__code__.co_firstlineno + 1


def test_the_frames_are_the_callers_from_the_innermost_outwards() -> None:
    pool = MemoryPool()
    with pool.record(frames=3):
        block = outer(pool)
        name = "test_the_frames_are_the_callers_from_the_innermost_outwards"
        here = sites(pool)[block.ptr]
        assert here[:2] == [("inner", LINE), ("outer", LINE + 4)]
        assert here[2][0] == name
    with pool.record(frames=1):
        assert sites(pool) | {inner(pool).ptr: [("inner", LINE)]} == sites(pool)


def test_a_generator_shows_who_resumed_it() -> None:
    pool = MemoryPool()
    made = blocks(pool)

    def first() -> Block:
        return next(made)

    def second() -> Block:
        return next(made)

    with pool.record(frames=3):
        for resume in (first, second, first):
            block = resume()
            names = [name.rsplit(".", 1)[-1] for name, _ in sites(pool)[block.ptr]]
            assert names == ["inner", "blocks", resume.__name__]


def test_every_thread_has_its_own_frames() -> None:
    pool = MemoryPool()
    wrong: list[object] = []

    def deep(levels: int) -> Block:
        return deep(levels - 1) if levels else pool.allocate(10)

    def work(levels: int) -> None:
        for _ in range(200):
            block = deep(levels)
            names = [name.rsplit(".", 1)[-1] for name, _ in sites(pool)[block.ptr]]
            if names[: levels + 2] != ["deep"] * (levels + 1) + ["work"]:
                wrong.append(names)
            pool.free(block)

    with pool.record(frames=12, max_events=16):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_without_frames_or_before_recording_the_site_is_unknown() -> None:
    pool = MemoryPool()
    before = outer(pool)
    with pool.record(frames=0):
        during = outer(pool)
    after = outer(pool)
    assert sites(pool) == {before.ptr: [], during.ptr: [], after.ptr: []}


def test_code_that_is_gone_keeps_its_name() -> None:
    pool = MemoryPool()
    with pool.record(frames=1):
        for number in range(20):
            scope: dict[str, object] = {"pool": pool}
            exec(f"def made_{number}():\n    return pool.allocate(8)\nb = made_{number}()", scope)
            block = scope.pop("b")
            assert isinstance(block, Block)
            scope.clear()
            gc.collect()
            assert sites(pool)[block.ptr] == [(f"made_{number}", 2)]


def test_an_odd_file_name_is_no_trouble() -> None:
    pool = MemoryPool()
    with pool.record(frames=1):
        code = compile("block = pool.allocate(8)", "no\udcffn<s>e\x00", "exec")
        scope: dict[str, object] = {"pool": pool}
        exec(code, scope)
    (frame,) = (
        block["frames"][0]
        for segment in snapshot(pool)["segments"]
        for block in segment["blocks"]
        if block["frames"]
    )
    assert frame["filename"].startswith("no\\udcffn<s>e")


def test_what_the_ring_lost_is_counted(seed: int) -> None:
    number = random.Random(seed).randrange(500, 1500)
    pool = MemoryPool()
    recording = pool.record(max_events=100, frames=0)
    for _ in range(number):
        pool.free(pool.allocate(1))
    events, lost = recording.history()
    assert 100 <= len(events) < 200
    assert len(events) + lost == 2 * number + 1  # and one segment
    assert snapshot(pool)["lost_events"] == lost + 1  # one more looked
    recording.clear()
    assert recording.history() == ([], 0)


def test_a_closed_recording_keeps_what_it_has_and_hears_no_more() -> None:
    pool = MemoryPool()
    first = pool.record()
    inner(pool)
    heard = first.history()
    second = pool.record()
    assert (first.is_open, second.is_open) == (False, True)
    first.close()
    assert second.is_open
    second.close()
    second.close()
    inner(pool)
    assert first.history() == heard
    assert second.history() == ([], 0)
    assert not second.is_open


def test_numbers_that_cannot_be_are_refused() -> None:
    pool = MemoryPool()
    with pytest.raises(ValueError, match="frames: 61 is not between 0 and 60"):
        pool.record(frames=61)
    with pytest.raises(ValueError, match="max_events: -1 is not between"):
        pool.record(max_events=-1)
    with pytest.raises(ValueError, match="max_events"):
        pool.record(max_events=1 << 40)


class Holder:
    """In a cycle, so that only the garbage collector frees its block."""

    def __init__(self, pool: MemoryPool) -> None:
        self.pool, self.block, self.itself = pool, pool.allocate(64), self

    def __del__(self) -> None:
        self.pool.free(self.block)


def test_finalizers_free_blocks_while_frames_are_taken() -> None:
    """Finalizers re-entering the allocator: taking frames makes objects, which collects garbage."""
    pool = MemoryPool()
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        with pool.record(frames=16, max_events=1 << 14), assert_no_leak(pool):
            for number in range(300):
                Holder(pool)
                scope: dict[str, object] = {"Holder": Holder, "pool": pool}
                exec("\n" * (number % 7) + "Holder(pool)", scope)  # a site that is new
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert pool.statistics().live == 0


def test_threads_and_the_collector_together_do_not_deadlock() -> None:
    pool = MemoryPool()
    done = []

    def work() -> None:
        for _ in range(150):
            Holder(pool)
            sites(pool)
        done.append(True)

    with pool.record(max_events=64):
        threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            gc.collect()
            threads[0].join(0.001)
    assert len(done) == 3
    gc.collect()
    assert pool.statistics().live == 0
