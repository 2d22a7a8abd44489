"""Leaks: call sites whose live bytes only grow, and blocks that outlive what made them."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType

from pyparallel._native import core
from pyparallel.memory import summary
from pyparallel.memory.pool import MemoryPool
from pyparallel.memory.recording import Recording

FRAMES = 8


@dataclass(frozen=True)
class Leak:
    """A call site whose live bytes never fell and grew more than once.

    Attributes:
        site: its frames, innermost first, as "file:line:function"; empty: unknown.
        bytes_per_step: growth, averaged over the steps looked at.
        blocks_per_step: likewise.
        num_bytes: asked for by its live blocks after the last step.
        blocks: number of them.
    """

    site: tuple[str, ...]
    bytes_per_step: float
    blocks_per_step: float
    num_bytes: int
    blocks: int

    def __str__(self) -> str:
        place = "\n    ".join(self.site) or summary.UNKNOWN
        return (
            f"{self.bytes_per_step:+,.0f} bytes and {self.blocks_per_step:+,.2f} blocks per step, "
            f"{self.num_bytes:,} bytes in {self.blocks} blocks now, from\n    {place}"
        )


class LeakReport:
    """Counts a pool's live blocks by call site after every step; also a context manager.

    Records call sites while it is open, unless the pool is recorded already.
    """

    def __init__(self, pool: MemoryPool, *, warmup: int = 1, window: int = 64) -> None:
        """Begins.

        Args:
            pool: to watch.
            warmup: first steps that do not count: optimizer states and caches appear in them.
            window: steps that are compared with each other, the latest.

        Raises:
            ValueError: a window in which nothing can grow twice, or a negative warmup.
        """
        if window < 3 or warmup < 0:
            raise ValueError(f"window {window} must be at least 3, warmup {warmup} at least 0")
        self._pool = pool
        self._warmup = warmup
        self._steps: deque[dict[int, tuple[int, int]]] = deque(maxlen=window)
        self._recording = _with_sites(pool)

    def step(self) -> None:
        """To be called after every training step. Waits for no device."""
        if self._warmup > 0:
            self._warmup -= 1
            return
        by_site: dict[int, tuple[int, int]] = {}
        for _, num_bytes, _, site in _live(self._pool):
            before = by_site.get(site, (0, 0))
            by_site[site] = before[0] + num_bytes, before[1] + 1
        self._steps.append(by_site)

    def leaks(self) -> list[Leak]:
        """Sites whose live bytes never fell between steps and grew at least twice; worst first."""
        found = [self._leak(site) for site in (self._steps[-1] if self._steps else {})]
        return sorted((leak for leak in found if leak), key=lambda leak: -leak.bytes_per_step)

    def _leak(self, site: int) -> Leak | None:
        held = [step.get(site, (0, 0)) for step in self._steps]
        growth = [after[0] - before[0] for before, after in pairwise(held)]
        if any(grown < 0 for grown in growth) or sum(grown > 0 for grown in growth) < 2:
            return None
        (first_bytes, first_blocks), (num_bytes, blocks) = held[0], held[-1]
        return Leak(
            _frames(site),
            (num_bytes - first_bytes) / len(growth),
            (blocks - first_blocks) / len(growth),
            num_bytes,
            blocks,
        )

    def __str__(self) -> str:
        leaks = self.leaks()
        heading = f"{len(leaks)} call sites grew over {len(self._steps)} steps"
        return "\n".join((heading + ("" if leaks else "."), *map(str, leaks)))

    def close(self) -> None:
        """Records no more. The report stays."""
        if self._recording is not None:
            self._recording.close()

    def __enter__(self) -> LeakReport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def assert_no_leak(pool: MemoryPool) -> Iterator[None]:
    """Asserts that whatever is allocated inside, by any thread, is freed at the end.

    Collects garbage before it judges. An exception from inside passes, unjudged.

    Raises:
        AssertionError: blocks are live; with their bytes and call sites.
    """
    recording = _with_sites(pool)
    before = pool.native.observed()
    try:
        yield
        if _live(pool, after=before):
            gc.collect()
        left = _live(pool, after=before)
        if left:
            raise AssertionError(_complaint(left))
    finally:
        if recording is not None:
            recording.close()


Live = tuple[int, int, int, int]  # address, bytes asked for, serial number, site


def _live(pool: MemoryPool, *, after: int | None = None) -> list[Live]:
    return [
        (address, requested, serial, site)
        for _, _, blocks in pool.native.blocks()
        for address, _, requested, serial, _, site, state in blocks
        if state == summary.LIVE and (after is None or serial > after)
    ]


def _with_sites(pool: MemoryPool) -> Recording | None:
    """Call sites are taken from now on; what ends that, or None if they were before."""
    if pool.native.observer() is not None:
        return None
    return pool.record(history=False, frames=FRAMES)


def _frames(site: int) -> tuple[str, ...]:
    return tuple(f"{file}:{line}:{name}" for file, line, name in core.frames_of(site))


def _complaint(left: Iterable[Live]) -> str:
    by_site: dict[int, list[int]] = {}
    for _, num_bytes, _, site in left:
        by_site.setdefault(site, []).append(num_bytes)
    total = sum(map(sum, by_site.values()))
    lines = [f"{total:,} bytes in {sum(map(len, by_site.values()))} blocks are still live:"]
    for site, sizes in sorted(by_site.items(), key=lambda entry: -sum(entry[1])):
        place = "\n    ".join(_frames(site)) or summary.UNKNOWN
        lines.append(f"  {sum(sizes):,} bytes in {len(sizes)} blocks from\n    {place}")
    return "\n".join(lines)
