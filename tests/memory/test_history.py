"""History: no peak is smoothed away, and columns add up whatever is asked for."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyparallel.memory import MemoryPool, snapshot
from pyparallel.memory.history import BEFORE, OTHERS, history


def event(action: str, address: int, size: int, time: int, name: str = "f") -> dict[str, Any]:
    frames = [{"filename": "a.py", "line": 1, "name": name}]
    return {"action": action, "addr": address, "size": size, "time_us": time, "frames": frames}


def test_the_peak_is_in_a_column_of_any_width(seed: int) -> None:
    random_ = random.Random(seed)
    pool = MemoryPool()
    held = [pool.allocate(random_.randrange(5000)) for _ in range(20)]  # before the recording
    with pool.record(max_events=1 << 14):
        total = peak = sum(block.num_bytes for block in held)
        for _ in range(500):
            if held and random_.random() < 0.5:
                block = held.pop(random_.randrange(len(held)))
                total -= block.num_bytes
                pool.free(block)
            else:
                held.append(pool.allocate(random_.randrange(1 << 20)))
                total += held[-1].num_bytes
            peak = max(peak, total)
        data = snapshot(pool)
    for columns in (1, 2, 7, 600):
        seen = history(data, columns=columns, most_sites=random_.randrange(1, 5))
        assert max(map(sum, seen.live)) == peak
        assert len(seen.live) == len(seen.reserved) == columns
        assert min(map(min, seen.live)) >= 0
        assert max(seen.reserved) == pool.statistics().reserved_peak
        assert BEFORE in seen.sites or OTHERS in seen.sites


def test_sites_beyond_the_highest_are_one() -> None:
    trace = [event("alloc", n, 100 + n, n, f"f{n}") for n in range(10)]
    segment = {"device": 0, "address": 0, "total_size": 4096, "blocks": []}
    seen = history({"segments": [segment], "device_traces": [trace]}, most_sites=3, columns=4)
    assert [site[0].rsplit(":", 1)[1] for site in seen.sites[:3]] == ["f9", "f8", "f7"]
    assert seen.sites[3] == OTHERS
    assert seen.peaks[3] == sum(range(100, 107)) == seen.live[-1][3]
    assert set(seen.reserved) == {4096}


def test_an_old_snapshot_without_times_or_addresses_is_read() -> None:
    trace = [event("alloc", 512, 300, 0), event("free_requested", 0, 50, 0)]
    for entry in trace:
        del entry["time_us"]
    blocks = [
        {"size": 512, "state": "inactive"},
        {"size": 512, "requested_size": 300, "state": "active_allocated"},
        {"size": 512, "state": "active_allocated"},
    ]
    segment = {"device": 0, "address": 0, "total_size": 1536, "blocks": blocks}
    seen = history({"segments": [segment], "device_traces": [trace]}, columns=3)
    assert dict(zip(seen.sites, seen.live[-1], strict=True)) == {BEFORE: 562, ("a.py:1:f",): 300}


def test_no_events_are_a_flat_line_and_wrong_numbers_are_refused() -> None:
    seen = history({"segments": [], "device_traces": [[]]}, columns=5)
    assert seen.live == ((),) * 5
    assert history({"segments": []}, device=3).reserved == (0,) * 600
    with pytest.raises(ValueError, match="columns 0"):
        history({"segments": []}, columns=0)
