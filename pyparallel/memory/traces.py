"""Traces: histories of allocations and frees, read from torch's, RMM's and our own files."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyparallel.memory._restricted_pickle import load_plain

FREE = -1


@dataclass(frozen=True)
class Trace:
    """One history. Event i allocates or frees the block that has the number block[i].

    Attributes:
        block: int64, (events,): allocations are numbered 0, 1, ... in their order.
        num_bytes: int64, (events,): bytes asked for, or -1 where the block is freed.
        stream: uint64, (events,): the stream of an allocation.
        remarks: what was missing or put right, and how often: text to count.
    """

    block: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64]
    stream: npt.NDArray[np.uint64]
    remarks: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.block)


class TraceBuilder:
    """A trace in the making, from events that name blocks by any key, as by their address."""

    def __init__(self) -> None:
        self._events: list[tuple[int, int, int]] = []
        self._live: dict[object, int] = {}
        self._allocations = 0
        self._before: list[tuple[int, int]] = []  # of blocks that began before: bytes, stream
        self._remarks: dict[str, int] = {}

    def allocate(self, key: object, num_bytes: int, stream: int = 0) -> None:
        """A block begins its life."""
        if key in self._live:
            self.remark("allocations where a block was live: that one is taken as freed")
            self.free(key)
        self._live[key] = self._allocations
        self._events.append((self._allocations, num_bytes, stream % (1 << 64)))
        self._allocations += 1

    def free(self, key: object, num_bytes: int | None = None, stream: int = 0) -> None:
        """A block ends. One that never began here began before the trace, if its size is known."""
        number = self._live.pop(key, None)
        if number is None and num_bytes is None:
            self.remark("frees of unknown blocks: left out")
            return
        if number is None:
            number = self.was_live(num_bytes or 0, stream)
        self._events.append((number, FREE, 0))

    def was_live(self, num_bytes: int, stream: int = 0) -> int:
        """A block that is older than the trace: allocated first. Returns its preliminary number."""
        self.remark("blocks older than the trace: allocated at its beginning")
        self._before.append((num_bytes, stream % (1 << 64)))
        return -len(self._before)

    def is_live(self, key: object) -> bool:
        """Whether the block began here and has not ended."""
        return key in self._live

    def remark(self, what: str, count: int = 1) -> None:
        """Counts what somebody who reads the results must know."""
        self._remarks[what] = self._remarks.get(what, 0) + count

    def finish(self) -> Trace:
        """The trace as it is now."""
        older = len(self._before)
        first = [(i, num_bytes, stream) for i, (num_bytes, stream) in enumerate(self._before)]
        rest = [
            (older + number if number >= 0 else -1 - number, num_bytes, stream)
            for number, num_bytes, stream in self._events
        ]
        block, num_bytes, stream = zip(*first, *rest, strict=True) if first or rest else ((),) * 3
        return Trace(
            np.array(block, np.int64),
            np.array(num_bytes, np.int64),
            np.array(stream, np.uint64),
            dict(self._remarks),
        )


def save(trace: Trace, path: str | Path) -> None:
    """Writes our own format: an .npz of `num_bytes`, `age` and `stream`.

    `age` is how many allocations ago a freed block was allocated, 0 for an allocation: training
    repeats itself, and so do ages, which makes the file small.
    """
    allocations = np.cumsum(trace.num_bytes >= 0)
    age = np.where(trace.num_bytes >= 0, 0, allocations - trace.block).astype(np.int64)
    np.savez_compressed(path, num_bytes=trace.num_bytes, age=age, stream=trace.stream)


def load(path: str | Path, *, device: int = 0) -> Trace:
    """Reads a trace, in whichever of the formats it is.

    Args:
        path: an .npz that `save` wrote; a CSV of RMM's logging_resource_adaptor (Thread, Time,
            Action, Pointer, Size, Stream); or a pickle of torch.cuda.memory._snapshot().
        device: whose history to take from a torch snapshot.

    Returns:
        The trace; `remarks` counts what is missing or was put right.

    Raises:
        ValueError: the file is none of these, damaged, or a pickle of more than plain data.
        FileNotFoundError: there is no such file.
    """
    data = Path(path).read_bytes()
    try:
        if data[:2] == b"PK":
            return _own(data)
        if data[:1] == b"\x80":
            return _torch(load_plain(data), device)
        return _rmm(data.decode())
    except (UnicodeDecodeError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is no trace that can be read: {error}") from error
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(f"{path} lacks what a trace has: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _own(data: bytes) -> Trace:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        num_bytes = arrays["num_bytes"].astype(np.int64)
        age, stream = arrays["age"].astype(np.int64), arrays["stream"].astype(np.uint64)
    if not num_bytes.ndim == age.ndim == stream.ndim == 1:
        raise ValueError("its arrays have more than one dimension")
    if not len(num_bytes) == len(age) == len(stream):
        raise ValueError(f"{len(num_bytes)} sizes, {len(age)} ages, {len(stream)} streams")
    allocations = np.cumsum(num_bytes >= 0)
    block = np.where(num_bytes >= 0, allocations - 1, allocations - age)
    return Trace(block.astype(np.int64), num_bytes, stream)


def _torch(snapshot: object, device: int) -> Trace:
    if not isinstance(snapshot, dict) or "device_traces" not in snapshot:
        raise ValueError("a pickle, but no snapshot of torch's: it has no device_traces")
    histories = snapshot["device_traces"]
    if not 0 <= device < len(histories):
        raise ValueError(f"device {device} of a snapshot of {len(histories)}")
    builder = TraceBuilder()
    # free_completed comes where the memory may be used again; a history without it has requests.
    completed = any(event["action"] == "free_completed" for event in histories[device])
    ends = "free_completed" if completed else "free_requested"
    for event in histories[device]:
        if event["action"] == "alloc":
            builder.allocate(event["addr"], event["size"], event.get("stream", 0))
        elif event["action"] == ends:
            builder.free(event["addr"], event["size"], event.get("stream", 0))
        elif event["action"] == "oom":
            builder.remark("requests that failed, out of memory: left out")
    for address, num_bytes, stream in _active(snapshot.get("segments", []), device):
        if not builder.is_live(address):
            builder.was_live(num_bytes, stream)
    if lost := snapshot.get("lost_events", 0):
        builder.remark("events that the recorder had no room for: lost", lost)
    return builder.finish()


def _active(segments: Iterable[dict[str, Any]], device: int) -> Iterator[tuple[int, int, int]]:
    """Address, bytes and stream of the blocks that a snapshot ends with."""
    for segment in segments:
        if segment.get("device", 0) != device:
            continue
        address = segment["address"]
        for block in segment["blocks"]:
            if block["state"] == "active_allocated":
                size = block.get("requested_size", block["size"])
                yield block.get("address", address), size, segment.get("stream", 0)
            address += block["size"]


_RMM_COLUMNS = ["Thread", "Time", "Action", "Pointer", "Size", "Stream"]


def _rmm(text: str) -> Trace:
    lines = list(csv.reader(text.splitlines()))
    if not lines or [name.strip() for name in lines[0]] != _RMM_COLUMNS:
        raise ValueError(f"neither .npz nor pickle, and its first line is not {_RMM_COLUMNS}")
    builder = TraceBuilder()
    for action, pointer, size, stream in _in_order(lines[1:], builder):
        if action == "allocate":
            builder.allocate(pointer, size, stream)
        elif action == "free":
            builder.free(pointer, size, stream)
        elif action == "allocate failure":
            builder.remark("requests that failed, out of memory: left out")
        else:
            builder.remark(f"events of the unknown kind {action!r}: left out")
    return builder.finish()


def _in_order(
    lines: Iterable[list[str]], builder: TraceBuilder
) -> Iterator[tuple[str, int, int, int]]:
    before = ""
    for line in lines:
        if not line:
            continue
        try:
            _, time, action, pointer, size, stream = line
            event = (action, int(pointer, 16), int(size), int(stream, 16))
        except ValueError:
            builder.remark("lines cut short or unreadable: left out")
            continue
        # HH:MM:SS:microseconds, so text sorts as time does; the file's order is what is replayed.
        if time < before:
            builder.remark("lines older than the line before: taken in the file's order")
        before = time
        yield event
