"""A snapshot's history as columns of time: live bytes by call site, reserved bytes, failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyparallel.memory import summary

Site = tuple[str, ...]

BEFORE: Site = ("allocated before the recording",)
OTHERS: Site = ("all other call sites",)


@dataclass(frozen=True)
class Failure:
    """An allocation that found no memory.

    Attributes:
        time_us: when, in microseconds since 1970.
        num_bytes: asked for.
        site: by whom.
    """

    time_us: int
    num_bytes: int
    site: Site


@dataclass(frozen=True)
class History:
    """What was held when. Each column shows the moment in it at which most bytes were live.

    Attributes:
        start_us: time of the first event, in microseconds since 1970.
        end_us: time of the last.
        sites: those with the highest peaks, highest first, then OTHERS if there are more.
        peaks: bytes of each of them at its own peak.
        live: bytes by column and site.
        reserved: the most bytes held from the upstream, by column.
        failures: in order of time.
        lost: events that are missing.
    """

    start_us: int
    end_us: int
    sites: tuple[Site, ...]
    peaks: tuple[int, ...]
    live: tuple[tuple[int, ...], ...]
    reserved: tuple[int, ...]
    failures: tuple[Failure, ...]
    lost: int


@dataclass(frozen=True)
class _Change:
    """One event: bytes of a site, or of the reserve, more or fewer."""

    time_us: int
    site: Site | None  # None: the reserve
    num_bytes: int


def history(
    snapshot: Mapping[str, Any], *, device: int = 0, columns: int = 600, most_sites: int = 12
) -> History:
    """Reads a snapshot's events.

    Args:
        snapshot: pyparallel's or torch's.
        device: whose.
        columns: parts of equal duration.
        most_sites: call sites that are told apart.

    Raises:
        ValueError: fewer than one column or site.
    """
    if columns < 1 or most_sites < 1:
        raise ValueError(f"columns {columns} and most_sites {most_sites} must be at least 1")
    traces = snapshot.get("device_traces", [])
    trace = list(_timed(traces[device] if device < len(traces) else []))
    segments = [s for s in snapshot["segments"] if s.get("device", 0) == device]
    begin, changes = _changes(trace, segments)
    reserved = sum(segment["total_size"] for segment in segments)
    reserved -= sum(change.num_bytes for change in changes if change.site is None)
    peaks = _peaks(begin, changes)
    ranked = sorted(peaks, key=lambda site: (-peaks[site], site))
    sites = ranked if len(ranked) <= most_sites else [*ranked[:most_sites], OTHERS]
    span = (trace[0][0], trace[-1][0]) if trace else (0, 0)
    table = _Table(sites, begin, reserved)
    live, held = table.columns(changes, span, columns)
    others = max((row[-1] for row in live if row), default=0)
    return History(
        *span,
        tuple(sites),
        tuple(peaks.get(site, others) for site in sites),
        live,
        held,
        tuple(_failures(trace)),
        snapshot.get("lost_events", 0),
    )


def _timed(trace: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Events with times that never go back; old snapshots have none: their events are counted."""
    now = 0
    for event in trace:
        now = max(now, event.get("time_us", now + 1))
        yield now, event


def _changes(
    trace: Iterable[tuple[int, Mapping[str, Any]]], segments: Iterable[Mapping[str, Any]]
) -> tuple[dict[Site, int], list[_Change]]:
    """Live bytes by site at the beginning, and what changed since."""
    live: dict[int, tuple[Site, int]] = {}  # allocated in the trace: by address
    sites: dict[int, Site] = {}  # by their list of frames, which many events share
    begin: dict[Site, int] = {}
    changes: list[_Change] = []
    for now, event in trace:
        action, size, address = event["action"], event["size"], event.get("addr", 0)
        if action == "alloc":
            frames = event.get("frames", ())
            site = sites.setdefault(id(frames), summary.site_of(frames))
            live[address] = site, size
            changes.append(_Change(now, site, size))
        elif action == "free_requested":
            known = live.pop(address, None)
            site, size = known or (BEFORE, size)
            if known is None:
                begin[BEFORE] = begin.get(BEFORE, 0) + size
            changes.append(_Change(now, site, -size))
        elif action in ("segment_alloc", "segment_map"):
            changes.append(_Change(now, None, size))
        elif action in ("segment_free", "segment_unmap"):
            changes.append(_Change(now, None, -size))
    for address, block in _live_blocks(segments):
        if address not in live:
            site = summary.site_of(block.get("frames", ())) or BEFORE
            begin[site] = begin.get(site, 0) + block.get("requested_size", block["size"])
    return begin, changes


def _live_blocks(
    segments: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for segment in segments:
        address = segment["address"]
        for block in segment["blocks"]:
            if block["state"] == summary.LIVE:
                yield address, block
            address += block["size"]


def _peaks(begin: Mapping[Site, int], changes: Iterable[_Change]) -> dict[Site, int]:
    now, peaks = dict(begin), dict(begin)
    for change in changes:
        if change.site is not None:
            now[change.site] = now.get(change.site, 0) + change.num_bytes
            peaks[change.site] = max(peaks.get(change.site, 0), now[change.site])
    return peaks


class _Table:
    """Bytes of each site and of the reserve as they change."""

    def __init__(self, sites: Sequence[Site], begin: Mapping[Site, int], reserved: int) -> None:
        self._index = {site: index for index, site in enumerate(sites)}
        self._live = [0] * len(sites)
        self._total = 0
        self._reserved = reserved
        for site, num_bytes in begin.items():
            self._apply(_Change(0, site, num_bytes))

    def _apply(self, change: _Change) -> None:
        if change.site is None:
            self._reserved += change.num_bytes
        else:
            self._live[self._index.get(change.site, -1)] += change.num_bytes
            self._total += change.num_bytes

    def columns(
        self, changes: Sequence[_Change], span: tuple[int, int], count: int
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
        """By column, the live bytes by site when they were most, and the most reserved."""
        start, end = span
        rows, held = [], []
        done = 0
        for column in range(1, count + 1):
            until = start + (end - start) * column / count
            row, total, most = tuple(self._live), self._total, self._reserved
            while done < len(changes) and (changes[done].time_us < until or column == count):
                self._apply(changes[done])
                done += 1
                most = max(most, self._reserved)
                if self._total > total:
                    row, total = tuple(self._live), self._total
            rows.append(row)
            held.append(most)
        return tuple(rows), tuple(held)


def _failures(trace: Iterable[tuple[int, Mapping[str, Any]]]) -> Iterator[Failure]:
    for now, event in trace:
        if event["action"] == "oom":
            yield Failure(now, event["size"], summary.site_of(event.get("frames", ())))
