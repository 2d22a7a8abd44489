"""Traces: what was written is read again; what is missing is counted; no file runs code."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

from pyparallel.memory import traces


def event(action: str, address: int, size: int, stream: int = 0) -> dict[str, object]:
    return {"action": action, "addr": address, "size": size, "stream": stream, "frames": []}


def write_snapshot(path: Path, events: list, **others: object) -> Path:
    path.write_bytes(pickle.dumps({"segments": [], "device_traces": [events], **others}))
    return path


def as_tuples(trace: traces.Trace) -> list[tuple[int, int]]:
    return list(zip(trace.block.tolist(), trace.num_bytes.tolist(), strict=True))


def random_trace(seed: int, events: int) -> traces.Trace:
    draw, builder, live = random.Random(seed), traces.TraceBuilder(), []
    for key in range(events):
        if live and draw.random() < 0.5:
            builder.free(live.pop(draw.randrange(len(live))))
        else:
            builder.allocate(key, draw.choice([0, 1, 511, 1 << 33]), draw.randrange(1 << 64))
            live.append(key)
    return builder.finish()


@pytest.mark.parametrize("events", [0, 1, 1000])
def test_our_own_format_keeps_everything(events, seed, tmp_path):
    trace = random_trace(seed, events)
    traces.save(trace, tmp_path / "a.npz")
    read = traces.load(tmp_path / "a.npz")
    assert as_tuples(read) == as_tuples(trace)
    assert read.stream.tolist() == trace.stream.tolist()


def test_a_torch_snapshot_is_read_in_order_of_completed_frees(tmp_path):
    path = write_snapshot(
        tmp_path / "a.pickle",
        [
            event("segment_alloc", 4096, 2 << 20),
            event("alloc", 4096, 700, stream=5),
            event("free_requested", 4096, 700, stream=5),
            event("alloc", 8192, 100),
            event("free_completed", 4096, 700, stream=5),
            event("oom", 0, 1 << 40),
        ],
    )
    trace = traces.load(path)
    assert as_tuples(trace) == [(0, 700), (1, 100), (0, traces.FREE)]
    assert trace.stream.tolist() == [5, 0, 0]
    assert list(trace.remarks.values()) == [1]


def test_blocks_older_than_a_snapshots_history_are_there_from_the_beginning(tmp_path):
    held = {"state": "active_allocated", "size": 1024, "requested_size": 1000}
    known = {"state": "active_allocated", "size": 512, "requested_size": 8}
    free = {"state": "inactive", "size": 512}
    path = write_snapshot(
        tmp_path / "a.pickle",
        [event("free_completed", 1 << 30, 77, stream=3), event("alloc", 5632, 8)],
        segments=[{"device": 0, "address": 4096, "stream": 9, "blocks": [held, free, known]}],
        lost_events=4,
    )
    trace = traces.load(path)
    assert as_tuples(trace) == [(0, 77), (1, 1000), (0, traces.FREE), (2, 8)]
    assert trace.stream.tolist() == [3, 9, 0, 0]
    assert sorted(trace.remarks.values()) == [2, 4]


RMM = """Thread,Time,Action,Pointer,Size,Stream
1,12:00:00:000001,allocate,0x100,1000,0x0
1,12:00:00:000002,allocate,0x900,24,0x7f
1,12:00:00:000003,free,0x100,1000,0x0
"""


def test_an_rmm_log_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(RMM)
    trace = traces.load(tmp_path / "a.csv")
    assert as_tuples(trace) == [(0, 1000), (1, 24), (0, traces.FREE)]
    assert trace.stream.tolist() == [0, 0x7F, 0]
    assert trace.remarks == {}


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        ("1,12:00:00:0000", "cut short"),
        ("1,12:00:00:000004,allocate,0xzz,8,0x0", "unreadable"),
        ("1,12:00:00:000004,allocate failure,0x0,800,0x0", "out of memory"),
        ("1,12:00:00:000004,collect,0x0,0,0x0", "unknown kind"),
        ("1,11:59:59:000004,free,0x900,24,0x7f", "older than the line before"),
        ("1,12:00:00:000004,free,0xdead,16,0x0", "older than the trace"),
        ("1,12:00:00:000004,allocate,0x900,24,0x0", "where a block was live"),
    ],
)
def test_what_an_rmm_log_lacks_is_counted_and_the_rest_is_kept(line, remark, tmp_path):
    (tmp_path / "a.csv").write_text(f"{RMM}{line}\n1,12:00:00:000009,allocate,0x5000,3,0x0\n")
    trace = traces.load(tmp_path / "a.csv")
    assert [remark in text for text in trace.remarks] == [True]
    assert list(trace.remarks.values()) == [1]
    assert as_tuples(trace)[-1][1] == 3


def test_a_free_of_an_unknown_block_of_unknown_size_is_counted():
    builder = traces.TraceBuilder()
    builder.free(7)
    trace = builder.finish()
    assert len(trace) == 0
    assert trace.remarks == {"frees of unknown blocks: left out": 1}


class Runs:
    def __reduce__(self):
        return os.mkdir, (os.environ["TRACE_RAN"],)


def test_a_foreign_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACE_RAN", str(tmp_path / "ran"))
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"device_traces": [[Runs()]]}))
    with pytest.raises(ValueError, match="mkdir"):
        traces.load(tmp_path / "a.pickle")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xfe",
        b"PK\x03\x04 cut",
        pickle.dumps([1, 2]),
        pickle.dumps({"device_traces": [[{}]]}),
        pickle.dumps({"device_traces": []}),
        pickle.dumps({"device_traces": [[event("alloc", 1, 1)]]})[:-20],
    ],
)
def test_what_is_no_trace_is_a_value_error_with_the_files_name(data, tmp_path):
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.bin"):
        traces.load(tmp_path / "a.bin")


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_file_of_ours_that_was_cut_is_a_value_error(cut, seed, tmp_path):
    traces.save(random_trace(seed, 300), tmp_path / "a.npz")
    data = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(ValueError, match=r"a\.npz"):
        traces.load(tmp_path / "a.npz")


def test_arrays_of_different_lengths_are_a_value_error(tmp_path):
    np.savez(tmp_path / "a.npz", num_bytes=np.zeros(2), age=np.zeros(1), stream=np.zeros(2))
    with pytest.raises(ValueError, match="2 sizes, 1 ages"):
        traces.load(tmp_path / "a.npz")
