"""What a snapshot says at a glance: who holds the memory, and what is lost between the blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Of torch's snapshots and ours; torch's documentation and its code name the second differently.
LIVE = "active_allocated"
PENDING = ("active_pending_free", "active_awaiting_free")

UNKNOWN = "(no Python frame)"


@dataclass(frozen=True)
class Holding:
    """What one call site holds.

    Attributes:
        site: its frames, innermost first, as "file:line:function"; empty: unknown.
        num_bytes: asked for by its live blocks.
        blocks: number of live blocks.
        largest: bytes of the largest.
    """

    site: tuple[str, ...]
    num_bytes: int
    blocks: int
    largest: int


@dataclass(frozen=True)
class Summary:
    """A snapshot in numbers; sizes in bytes. reserved = requested + rounding + pending + free.

    Attributes:
        reserved: held from the upstream.
        requested: asked for by live blocks.
        rounding: in live blocks, but not asked for.
        pending: freed, but other streams may still use it.
        free: in no block's use.
        holes: sizes of the free blocks, largest first.
        segments: number of upstream allocations.
        holdings: of every call site, largest first.
    """

    reserved: int
    requested: int
    rounding: int
    pending: int
    free: int
    holes: tuple[int, ...]
    segments: int
    holdings: tuple[Holding, ...]

    @property
    def fragmentation(self) -> float:
        """The part of the free memory that one request cannot have: 1 - largest hole / free."""
        return 1 - self.holes[0] / self.free if self.free else 0.0


def site_of(frames: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Frames as texts "file:line:function"."""
    return tuple(f"{frame['filename']}:{frame['line']}:{frame['name']}" for frame in frames)


def readable(num_bytes: int) -> str:
    """Bytes in the unit that one reads best."""
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if num_bytes >= 1 << shift:
            return f"{num_bytes / (1 << shift):.2f} {unit}"
    return f"{num_bytes} B"


def summarize(snapshot: Mapping[str, Any], *, device: int | None = None) -> Summary:
    """Counts a snapshot's blocks.

    Args:
        snapshot: from `pyparallel.memory.snapshot` or torch.cuda.memory._snapshot().
        device: only its segments; default: all.

    Raises:
        KeyError: it lacks what every snapshot has.
    """
    chosen = [s for s in snapshot["segments"] if device is None or s.get("device", 0) == device]
    blocks = [block for segment in chosen for block in segment["blocks"]]
    live = [block for block in blocks if block["state"] == LIVE]
    holes = sorted((b["size"] for b in blocks if b["state"] == "inactive"), reverse=True)
    requested = sum(_requested(block) for block in live)
    return Summary(
        reserved=sum(segment["total_size"] for segment in chosen),
        requested=requested,
        rounding=sum(block["size"] for block in live) - requested,
        pending=sum(block["size"] for block in blocks if block["state"] in PENDING),
        free=sum(holes),
        holes=tuple(holes),
        segments=len(chosen),
        holdings=_holdings(live),
    )


def _requested(block: Mapping[str, Any]) -> int:
    size: int = block.get("requested_size", block["size"])
    return size


def _holdings(live: Iterable[Mapping[str, Any]]) -> tuple[Holding, ...]:
    by_site: dict[tuple[str, ...], list[int]] = {}
    for block in live:
        by_site.setdefault(site_of(block.get("frames", ())), []).append(_requested(block))
    made = (Holding(site, sum(s), len(s), max(s)) for site, s in by_site.items())
    return tuple(sorted(made, key=lambda holding: (-holding.num_bytes, holding.site)))
