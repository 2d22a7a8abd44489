r"""Draws a snapshot's history as one SVG: live bytes over time, stacked by call site.

bytes |        ......reserved......     ! out of memory
      |   ____/##                 :____
      |  /////####\__________
      | /=========================      one colour a call site; hover for its frames
      +--------------------------- time

"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from threading import get_ident
from typing import Any
from xml.sax.saxutils import escape

from pyparallel.memory import summary
from pyparallel.memory.history import BEFORE, OTHERS, History, Site, history
from pyparallel.memory.summary import readable

# Twelve hues that neighbours tell apart; grey is for what has no site of its own.
COLOURS = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377",
    "#e69f00", "#44aa99", "#882255", "#999933", "#6699cc", "#cc6633",
)  # fmt: skip
GREY = "#bbbbbb"

WIDTH, HEIGHT = 1200, 480  # of the plot, in SVG units
LEFT, TOP, ROW = 90, 40, 18
STYLE = (
    "text{font:12px sans-serif;fill:#333}"
    ".reserved{fill:none;stroke:#000;stroke-dasharray:5 3}"
    ".failure{stroke:#d00;stroke-width:2}"
    ".column{fill:#000;fill-opacity:0}.column:hover{fill-opacity:.12}"
    ".site:hover{fill-opacity:.7}"
    ".axis{stroke:#ccc}"
)


def timeline(snapshot: Mapping[str, Any], *, device: int = 0) -> str:
    """A snapshot's history as the text of an SVG file that needs nothing else.

    Args:
        snapshot: from `pyparallel.memory.snapshot` or torch.cuda.memory._snapshot(), with events.
        device: whose.
    """
    return "\n".join(_lines(history(snapshot, device=device)))


def dump_timeline(snapshot: Mapping[str, Any], path: str | Path, *, device: int = 0) -> None:
    """Writes the timeline; a name that ends in .html gives a page around it.

    Args:
        snapshot: as of `timeline`.
        path: the file; it appears whole.
        device: whose.
    """
    path = Path(path)
    text = timeline(snapshot, device=device)
    if path.suffix in (".html", ".htm"):
        text = (
            '<html xmlns="http://www.w3.org/1999/xhtml"><head><meta charset="utf-8"/>'
            f"<title>memory</title></head><body>\n{text}\n</body></html>\n"
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.{get_ident()}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _lines(seen: History) -> Iterator[str]:
    height = TOP + HEIGHT + 40 + ROW * (len(seen.sites) + 1)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {height}" '
        f'width="100%">'
    )
    yield f"<style>{STYLE}</style>"
    top = max([1, *seen.reserved, *map(sum, seen.live)])
    yield from _axes(seen, top)
    yield from _areas(seen, top)
    yield _steps(seen.reserved, top)
    yield from _columns(seen)
    yield from _failures(seen)
    yield from _legend(seen)
    yield "</svg>"


def _axes(seen: History, top: int) -> Iterator[str]:
    live = max(map(sum, seen.live), default=0)
    heading = (
        f"live bytes, at most {readable(live)}; "
        f"reserved (dashed), at most {readable(max(seen.reserved))}"
    )
    if seen.lost:
        heading += f"; the {seen.lost} oldest events were lost"
    yield f'<text x="{LEFT}" y="20">{heading}</text>'
    for quarter in range(5):
        y = TOP + HEIGHT * (1 - quarter / 4)
        yield f'<path class="axis" d="M{LEFT} {y:g}h{WIDTH}"/>'
        label = readable(top * quarter // 4)
        yield f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{label}</text>'
        x, seconds = LEFT + WIDTH * quarter / 4, (seen.end_us - seen.start_us) * quarter / 4e6
        yield f'<text x="{x:g}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{seconds:.6g} s</text>'


def _areas(seen: History, top: int) -> Iterator[str]:
    """One polygon a site, each on top of those before."""
    edges = [tuple(accumulate(row, initial=0)) for row in seen.live]
    for index, site in enumerate(seen.sites):
        lower = _outline([edge[index] for edge in edges], top)
        upper = _outline([edge[index + 1] for edge in edges], top)
        points = " ".join((*lower, *reversed(upper)))
        yield (
            f'<polygon class="site" fill="{_colour(index, site)}" points="{points}">'
            f"<title>{_title(site, seen.peaks[index])}</title></polygon>"
        )


def _outline(levels: Sequence[int], top: int) -> list[str]:
    """Corners of steps, one a column; equal neighbours are one step."""
    corners = []
    width = WIDTH / len(levels)
    for column, level in enumerate(levels):
        y = TOP + HEIGHT * (1 - level / top)
        if column == 0 or level != levels[column - 1]:
            corners.append(f"{LEFT + width * column:.5g},{y:.5g}")
        if column == len(levels) - 1 or level != levels[column + 1]:
            corners.append(f"{LEFT + width * (column + 1):.5g},{y:.5g}")
    return corners


def _steps(levels: Sequence[int], top: int) -> str:
    return f'<polyline class="reserved" points="{" ".join(_outline(levels, top))}"/>'


def _columns(seen: History) -> Iterator[str]:
    """A strip a column, at the lower edge of the plot, that tells its numbers."""
    width = WIDTH / len(seen.live)
    for column, (row, reserved) in enumerate(zip(seen.live, seen.reserved, strict=True)):
        seconds = (seen.end_us - seen.start_us) * column / len(seen.live) / 1e6
        yield (
            f'<rect class="column" x="{LEFT + width * column:.5g}" y="{TOP + HEIGHT}" '
            f'width="{width:.4g}" height="24"><title>{seconds:.6g} s: {readable(sum(row))} live, '
            f"{readable(reserved)} reserved</title></rect>"
        )


def _failures(seen: History) -> Iterator[str]:
    duration = max(1, seen.end_us - seen.start_us)
    for failure in seen.failures:
        x = LEFT + WIDTH * (failure.time_us - seen.start_us) / duration
        title = f"out of memory: {readable(failure.num_bytes)} asked for"
        yield (
            f'<path class="failure" d="M{x:.5g} {TOP}v{HEIGHT}">'
            f"<title>{_title(failure.site, None, title)}</title></path>"
        )


def _legend(seen: History) -> Iterator[str]:
    for index, site in enumerate(seen.sites):
        y = TOP + HEIGHT + 40 + ROW * index
        place = _clean(site[0] if site else summary.UNKNOWN)
        label = f"{readable(seen.peaks[index])} at its peak: {place}"
        yield (
            f'<g><rect x="{LEFT}" y="{y}" width="12" height="12" fill="{_colour(index, site)}"/>'
            f'<text x="{LEFT + 18}" y="{y + 10}">{label}</text>'
            f"<title>{_title(site, seen.peaks[index])}</title></g>"
        )


def _title(site: Site, num_bytes: int | None, heading: str = "") -> str:
    lines = [heading or f"{readable(num_bytes or 0)} at its peak", *(site or (summary.UNKNOWN,))]
    return _clean("\n".join(lines))


def _colour(index: int, site: Site) -> str:
    return GREY if site in (BEFORE, OTHERS) else COLOURS[index % len(COLOURS)]


def _clean(text: str) -> str:
    """Text that XML can hold: it knows no control characters and no lone surrogates."""
    return escape(re.sub("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text))
