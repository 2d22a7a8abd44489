"""Snapshots: torch's own tools read them, and they are the truth."""

from __future__ import annotations

import copy
import pickle
import pickletools
import random
from pathlib import Path
from typing import Any

import pytest
from torch.cuda import _memory_viz

from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import MemoryPool, dump_snapshot, load_snapshot, snapshot, stats

# What the viewer at pytorch.org/memory_viz understands (torch/utils/viz/MemoryViz.js, `unpickle`).
OPCODES = """
    APPEND APPENDS BINFLOAT BINGET BININT BININT1 BININT2 BINPUT BINUNICODE DICT EMPTY_DICT
    EMPTY_LIST EMPTY_TUPLE FRAME LIST LONG1 LONG_BINGET LONG_BINPUT MARK MEMOIZE NEWFALSE NEWTRUE
    NONE PROTO SETITEM SETITEMS SHORT_BINUNICODE STOP TUPLE TUPLE1 TUPLE2 TUPLE3
"""


def same(text: str) -> str:
    """In place of the script that torch would download to draw."""
    return text


def busy_pool(seed: int, *, recorded: bool = True) -> tuple[MemoryPool, dict[int, int]]:
    """A pool with a history, and its live blocks' sizes by address."""
    random_ = random.Random(seed)
    pool = MemoryPool(limit=48 << 20)
    if recorded:
        pool.record(frames=4, max_events=1 << 14)
    live: dict[int, Any] = {}
    for _ in range(random_.randrange(200, 400)):
        if live and random_.random() < 0.45:
            pool.free(live.pop(random_.choice(list(live))))
        else:
            size = random_.choice([0, 1, 511, 512, 513, random_.randrange(1 << 21)])
            try:
                block = pool.allocate(size, stream=random_.randrange(3))
                live[block.ptr] = block
            except OutOfMemoryError:
                pool.trim()
    with pytest.raises(OutOfMemoryError):
        pool.allocate(1 << 40)
    return pool, {address: block.num_bytes for address, block in live.items()}


@pytest.mark.parametrize("recorded", [True, False])
def test_torchs_viewers_read_it(seed: int, recorded: bool, tmp_path: Path) -> None:
    pool, live = busy_pool(seed, recorded=recorded)
    dump_snapshot(pool, tmp_path / "ours.pickle")
    data = pickle.loads((tmp_path / "ours.pickle").read_bytes())
    # Each raises where blocks, segments and their sums do not agree.
    assert "total_allocated" in _memory_viz.segsum(data)
    text = _memory_viz.trace(data)
    for view in (_memory_viz.segments, _memory_viz.memory):
        lines = view(data, same).splitlines()
        assert sum(int(line.rsplit(" ", 1)[1]) for line in lines) == pool.statistics().reserved
    if recorded:
        assert text.count("cudaMalloc") >= 1
        assert "raise OutOfMemoryError # 1.0TiB requested" in text
        assert "busy_pool" in _memory_viz.memory(data, same)
    assert _memory_viz.compare(data["segments"], data["segments"], same) == ""
    gone = _memory_viz.compare(data["segments"], [], same).splitlines()
    assert all(line.startswith("only_before;") for line in gone)
    for plot in (_memory_viz.trace_plot, _memory_viz.segment_plot):
        assert "snapshot.pickle" in plot(copy.deepcopy(data))
    left = _memory_viz.filter_alloc_free_pairs(copy.deepcopy(data))["device_traces"][0]
    if recorded:
        allocated = {e["addr"]: e["size"] for e in left if e["action"] == "alloc"}
        assert allocated == live
        assert not [e for e in left if e["action"].startswith("free")]


def test_blocks_are_the_truth(seed: int) -> None:
    pool, live = busy_pool(seed)
    data = snapshot(pool)
    found = {}
    for segment in data["segments"]:
        address = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == address
            address += block["size"]
            if block["state"] == "active_allocated":
                found[block["address"]] = block["requested_size"]
        assert address == segment["address"] + segment["total_size"]
    assert found == live
    numbers = stats(pool)
    assert sum(s["allocated_size"] for s in data["segments"]) == numbers.live
    assert sum(s["requested_size"] for s in data["segments"]) == numbers.requested
    assert sum(s["total_size"] for s in data["segments"]) == numbers.reserved
    assert data["statistics"]["live"] == numbers.live


def test_events_tell_the_whole_story(seed: int) -> None:
    pool, live = busy_pool(seed)
    (trace,) = snapshot(pool)["device_traces"]
    now: dict[int, int] = {}
    reserved = 0
    for before, event in zip([None, *trace], trace, strict=False):
        match event["action"]:
            case "alloc":
                now[event["addr"]] = event["size"]
            case "free_requested":
                assert now.pop(event["addr"]) == event["size"]
            case "free_completed":
                assert before["action"] == "free_requested"
            case "segment_alloc" | "segment_map":
                reserved += event["size"]
            case "segment_free" | "segment_unmap":
                reserved -= event["size"]
            case "oom":
                assert event["device_free"] == (48 << 20) - reserved
                assert "addr" not in event
        assert isinstance(event["frames"], list)
    assert now == live
    assert reserved == pool.statistics().reserved
    times = [event["time_us"] for event in trace]
    assert max(times) - min(times) < 300e6


def test_the_browsers_viewer_knows_every_opcode(seed: int, tmp_path: Path) -> None:
    pool, _ = busy_pool(seed)
    dump_snapshot(pool, tmp_path / "ours.pickle")
    data = (tmp_path / "ours.pickle").read_bytes()
    used = {opcode.name for opcode, _, _ in pickletools.genops(data)}
    assert used <= set(OPCODES.split())
    assert data[1] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["ours.pickle"]


def test_a_file_comes_back_as_it_was(seed: int, tmp_path: Path) -> None:
    pool, _ = busy_pool(seed)
    data = snapshot(pool)
    (tmp_path / "a").write_bytes(pickle.dumps(data, protocol=4))
    assert load_snapshot(tmp_path / "a") == data
    (tmp_path / "b").write_bytes(pickle.dumps(data["segments"], protocol=2))
    assert load_snapshot(tmp_path / "b")["segments"] == data["segments"]


def test_a_foreign_pickle_runs_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    for name, content in {
        "evil": pickle.dumps({"segments": [Evil()]}),
        "number": pickle.dumps(5),
        "empty": b"",
        "text": b"no pickle at all",
        "cut": pickle.dumps({"segments": [1, 2, 3]})[:-4],
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            load_snapshot(tmp_path / name)
    assert not (tmp_path / "touched").exists()


def test_an_unused_pool_has_an_empty_snapshot() -> None:
    data = snapshot(MemoryPool())
    assert (data["segments"], data["device_traces"], data["lost_events"]) == ([], [[]], 0)
    assert "total_reserved: 0.0B" in _memory_viz.segsum(data)
