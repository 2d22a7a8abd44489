"""Window: any history keeps order, depth and bytes; every wait ends."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyparallel.data.window import EndedError, Entry, Window


@given(
    depth=st.integers(1, 5),
    most_bytes=st.none() | st.integers(1, 40),
    stages=st.integers(0, 2),
    moves=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=60),
)
def test_order_depth_and_bytes_hold_in_any_history(depth, most_bytes, stages, moves) -> None:
    window = Window(depth=depth, most_bytes=most_bytes, stages=stages)
    in_flight: list[Entry] = []
    taken: list[list[Entry]] = [[] for _ in range(stages)]
    number = largest = 0
    for move, size in moves:
        if move == 0 and window.has_room():
            in_flight.append(entry := Entry(value=number, num_bytes=size))
            number += 1
            window.append(entry)
            assert len(in_flight) <= depth
            # What had never been so large before could not be reckoned with.
            if most_bytes is not None and size <= largest and len(in_flight) > 1:
                assert sum(one.num_bytes for one in in_flight) <= most_bytes
        elif move == 3 and window.num_ready():
            entry = window.pop()
            assert entry is in_flight.pop(0)
            largest = max(largest, entry.num_bytes)
        elif move in (1, 2) and move <= stages:
            stage = move - 1
            waiting = [one for one in in_flight if one.passed == stage and one not in taken[stage]]
            first = next((one for one in in_flight if one not in taken[stage]), None)
            if first in waiting:
                assert window.take(stage) is first
                taken[stage].append(first)
            under_way = [one for one in taken[stage] if one.passed == stage]
            if under_way:  # threads finish in any order
                window.finish(under_way[size % len(under_way)])
        assert window.has_room() or in_flight
        ready = 0
        while ready < len(in_flight) and in_flight[ready].passed == stages:
            ready += 1
        assert window.num_ready() == ready


def test_a_batch_larger_than_the_budget_passes_alone() -> None:
    window = Window(depth=3, most_bytes=10, stages=0)
    for _ in range(3):
        assert window.has_room()
        window.append(Entry(num_bytes=11))
        assert not window.has_room()
        window.pop()


def test_small_batches_are_not_held_back_for_ever_by_a_large_one() -> None:
    window = Window(depth=4, most_bytes=10, stages=0)
    for size in (10, *[1] * 64):
        window.append(Entry(num_bytes=size))
        window.pop()
    window.append(Entry(num_bytes=1))
    assert window.has_room()


@pytest.mark.parametrize("wait", ["wait_for_room", "take", "pop"])
def test_every_wait_ends_with_stop(wait) -> None:
    window = Window(depth=1, most_bytes=None, stages=1)
    if wait == "wait_for_room":
        window.append(Entry())
    results: list[object] = []

    def run() -> None:
        try:
            results.append(getattr(window, wait)(*((0,) if wait == "take" else ())))
        except EndedError as error:
            results.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    window.stop("the first reason")
    window.stop("another")
    thread.join(60)
    assert results == [
        {"wait_for_room": False, "take": None}.get(
            wait, "no more batches of this iteration: the first reason"
        )
    ]
    window.append(Entry())  # of a thread that has not seen it yet
    assert window.num_ready() == 0
