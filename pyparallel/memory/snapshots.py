"""Snapshots: a pool's blocks and recorded events in the schema of torch.cuda.memory._snapshot()."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from threading import get_ident
from typing import Any

from pyparallel._native import core
from pyparallel.memory import summary
from pyparallel.memory._restricted_pickle import load_plain
from pyparallel.memory.pool import MemoryPool
from pyparallel.memory.statistics import Statistics

Event = tuple[str, int, int, int, int, int, int]

PROTOCOL = 4  # the newest that torch's viewer in the browser reads


def stats(pool: MemoryPool) -> Statistics:
    """What the pool has done and holds."""
    return pool.statistics()


def snapshot(pool: MemoryPool) -> dict[str, Any]:
    """Segments, blocks and, if the pool is or was recorded, its latest events.

    Made for torch's tools: torch.cuda._memory_viz and the viewer at pytorch.org/memory_viz. Over
    torch's own it has `lost_events`, `statistics`, and the `stream` of each block and `thread` of
    each event. Blocks until the pool's lock is free; waits for no device.

    Returns:
        Plain data. `segments`: each with `blocks` in order of address, their `state`
        "active_allocated", "active_pending_free" (other streams may still use it) or "inactive",
        and the `frames` that asked for them. `device_traces`: the events of each device.
    """
    device = max(0, pool.device)
    sites = _Sites()
    segments = [_segment(pool, listed, device, sites) for listed in pool.native.blocks()]
    recorder = pool.native.last_observer()
    events, lost = recorder.history() if recorder else ([], 0)
    trace = _trace(_until_listed(events), segments, sites)
    _add_free_bytes(trace, sum(segment["total_size"] for segment in segments), pool.limit)
    return {
        "segments": segments,
        "device_traces": [*([] for _ in range(device)), trace],
        "allocator_settings": {"upstream": pool.upstream, "limit": pool.limit},
        "external_annotations": [],
        "statistics": asdict(pool.statistics()),
        "lost_events": lost,
    }


def dump_snapshot(pool: MemoryPool, path: str | Path) -> None:
    """Writes `snapshot(pool)` as a pickle that torch's tools open; the file appears whole."""
    path = Path(path)
    partial = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}.partial")
    try:
        partial.write_bytes(pickle.dumps(snapshot(pool), protocol=PROTOCOL))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load_snapshot(path: str | Path) -> dict[str, Any]:
    """Reads a snapshot, pyparallel's or torch's; runs no code that the file may hold.

    Raises:
        ValueError: the file is no snapshot.
        FileNotFoundError: there is no such file.
    """
    try:
        data = load_plain(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if isinstance(data, list):  # torch's memory_snapshot(): segments alone
        data = {"segments": data, "device_traces": []}
    if not isinstance(data, dict) or not isinstance(data.get("segments"), list):
        raise ValueError(f"{path} is a pickle, but no snapshot: it has no list of segments")
    return data


class _Sites(dict[int, list[dict[str, Any]]]):
    """Frames by the number of their site: one list each, which pickles once."""

    def __missing__(self, site: int) -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = [
            {"filename": filename, "line": line, "name": name}
            for filename, line, name in core.frames_of(site)
        ]
        self[site] = frames
        return frames


def _segment(
    pool: MemoryPool, listed: tuple[Any, ...], device: int, sites: _Sites
) -> dict[str, Any]:
    address, num_bytes, listed_blocks = listed
    blocks = [
        {
            "address": at,
            "size": size,
            "requested_size": requested,
            "state": state,
            "stream": stream,
            "frames": sites[site],
        }
        for at, size, requested, _, stream, site, state in listed_blocks
    ]
    allocated = sum(block["size"] for block in blocks if block["state"] == summary.LIVE)
    pending = sum(block["size"] for block in blocks if block["state"] in summary.PENDING)
    return {
        "device": device,
        "address": address,
        "total_size": num_bytes,
        "allocated_size": allocated,
        "active_size": allocated + pending,
        "requested_size": sum(block["requested_size"] for block in blocks),
        "stream": 0,  # blocks of several streams may lie in one
        "segment_type": "large",
        "segment_pool_id": (0, 0),
        "is_expandable": pool.upstream != "cuda",
        "frames": [],
        "blocks": blocks,
    }


def _until_listed(events: list[Event]) -> list[Event]:
    """Events that the listed blocks know of: others may have gone on meanwhile."""
    for index in range(len(events) - 1, -1, -1):
        if events[index][0] == "snapshot":
            return events[:index]
    return events


def _trace(
    events: list[Event], segments: Iterable[dict[str, Any]], sites: _Sites
) -> list[dict[str, Any]]:
    """Events as torch writes them: what is freed is also completed, at once or later."""
    later = _completed_later(events, segments)
    owners: dict[int, tuple[int, int]] = {}  # address: stream and site
    trace: list[dict[str, Any]] = []
    for index, (action, address, num_bytes, stream, site, thread, nanoseconds) in enumerate(events):
        if action == "alloc":
            owners[address] = stream, site
        elif action == "free_requested":
            stream = owners.get(address, (stream, 0))[0]
            owners[address] = stream, site
        elif action == "free_completed":
            stream, site = owners.get(address, (stream, site))
        elif action.startswith("segment"):
            stream = 0  # as of segments
        entry = {
            "action": action,
            "device_free" if action == "oom" else "addr": address,
            "size": num_bytes,
            "stream": stream,
            "time_us": nanoseconds // 1000,
            "frames": sites[site],
            "thread": thread,
        }
        trace.append(entry)
        if action == "free_requested" and index not in later:
            trace.append(entry | {"action": "free_completed"})
    return trace


def _completed_later(events: list[Event], segments: Iterable[dict[str, Any]]) -> set[int]:
    """Which requests to free had to wait for other streams: the pool tells of their completion."""
    waiting = {
        block["address"]
        for segment in segments
        for block in segment["blocks"]
        if block["state"] in summary.PENDING
    }
    later = set()
    for index in range(len(events) - 1, -1, -1):
        action, address, *_ = events[index]
        if action == "free_completed":
            waiting.add(address)
        elif action == "alloc":
            waiting.discard(address)
        elif action == "free_requested" and address in waiting:
            waiting.discard(address)
            later.add(index)
    return later


def _add_free_bytes(trace: list[dict[str, Any]], reserved: int, limit: int | None) -> None:
    """What the pool's limit still allowed when memory was out; 0 without a limit: nobody knows."""
    for entry in reversed(trace):
        if entry["action"] == "oom":
            entry["device_free"] = 0 if limit is None else max(0, limit - reserved)
        elif entry["action"] in ("segment_alloc", "segment_map"):
            reserved -= entry["size"]
        elif entry["action"] in ("segment_free", "segment_unmap"):
            reserved += entry["size"]
