"""Timelines: one XML file that needs no other, with every site, every failure and what was lost."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import MemoryPool, dump_timeline, snapshot, timeline
from pyparallel.memory.history import history

SVG = "{http://www.w3.org/2000/svg}"


def weights(pool: MemoryPool) -> list[object]:
    return [pool.allocate(1 << 20) for _ in range(4)]


def activations(pool: MemoryPool) -> None:
    for block in [pool.allocate(300_000) for _ in range(9)]:
        pool.free(block)


@pytest.fixture
def recorded() -> MemoryPool:
    pool = MemoryPool(limit=32 << 20)
    pool.record(max_events=64)
    weights(pool)
    for _ in range(6):
        activations(pool)
    with pytest.raises(OutOfMemoryError):
        pool.allocate(1 << 30)
    return pool


def test_it_shows_sites_failures_and_losses(recorded: MemoryPool) -> None:
    data = snapshot(recorded)
    root = ElementTree.fromstring(timeline(data))
    assert root.tag == f"{SVG}svg"
    areas = root.findall(f"{SVG}polygon")
    assert len(areas) == len(history(data).sites)
    titles = "".join(area.findtext(f"{SVG}title") or "" for area in areas)
    assert "activations" in titles
    (failure,) = root.findall(f".//{SVG}path[@class='failure']")
    assert "out of memory: 1.00 GiB asked for" in (failure.findtext(f"{SVG}title") or "")
    assert len(root.findall(f".//{SVG}polyline[@class='reserved']")) == 1
    heading = root.findtext(f"{SVG}text") or ""
    assert f"the {data['lost_events']} oldest events were lost" in heading
    assert data["lost_events"] > 0


def test_areas_are_stacked_to_the_live_bytes(recorded: MemoryPool) -> None:
    data = snapshot(recorded)
    seen = history(data)
    tops = []
    for area in ElementTree.fromstring(timeline(data)).findall(f"{SVG}polygon"):
        points = [tuple(map(float, p.split(","))) for p in (area.get("points") or "").split()]
        assert points[0][0] == points[-1][0]  # closed at its left
        tops.append(min(y for _, y in points))
    most = max([*seen.reserved, *map(sum, seen.live)])
    assert min(tops) == pytest.approx(40 + 480 * (1 - max(map(sum, seen.live)) / most), rel=1e-3)


@pytest.mark.parametrize("name", ["t.svg", "t.html"])
def test_a_file_needs_no_other(recorded: MemoryPool, tmp_path: Path, name: str) -> None:
    dump_timeline(snapshot(recorded), tmp_path / name)
    text = (tmp_path / name).read_text()
    ElementTree.fromstring(text)
    for word in ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xhtml"):
        text = text.replace(word, "")
    assert "http" not in text
    assert "<script" not in text
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_any_name_of_a_file_is_xml() -> None:
    frame = {"filename": "<&\"'\x00\x1b\ud800\uffff]]>", "line": 1, "name": "<lambda>"}
    entry = {"action": "alloc", "addr": 0, "size": 5, "time_us": 1, "frames": [frame]}
    for trace in ([entry], []):
        ElementTree.fromstring(timeline({"segments": [], "device_traces": [trace]}))
