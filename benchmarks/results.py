"""A benchmark's results: rows of numbers, kept as JSON with where they come from."""

import dataclasses
import datetime
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks import NAMES, environment
from pyparallel.cli.timer import Spread


@dataclass(frozen=True)
class Target:
    """The ratio that a row is to reach."""

    bound: Literal["at least", "at most"]
    ratio: float

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio >= self.ratio if self.bound == "at least" else ratio <= self.ratio


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        label: What was measured.
        peer_name: With what ours is compared.
        ours: Seconds.
        peer: Seconds; None if there is no such peer here, which its name then says.
        ratio: The peer's seconds over ours, so how many times faster ours is; for a row whose
            target is "at most", ours over the peer's.
        target: The ratio to reach; None for sizes that have none.
        most_seconds: What ours may take whatever the peer takes; None where that is not claimed.
        num_bytes: Memory that ours must at least read and write, over all ranks; None where the
            time is not one of memory.
        copy_bytes_per_second: Read and written by a copy in the same run.
        details: What else was found, numbers or words by name.
    """

    label: str
    peer_name: str
    ours: Spread
    peer: Spread | None
    ratio: Spread | None
    target: Target | None = None
    most_seconds: float | None = None
    num_bytes: int | None = None
    copy_bytes_per_second: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def claims(self) -> dict[str, bool]:
        """What the row is to reach, in words, and whether it does; nothing without a peer."""
        claims = {}
        if self.target is not None and self.ratio is not None:
            met = self.target.is_met(self.ratio.median)
            claims[f"{self.target.bound} {self.target.ratio:g}x"] = met
        if self.most_seconds is not None:
            claims[f"at most {in_words(self.most_seconds)}"] = self.ours.median <= self.most_seconds
        return claims

    @property
    def bytes_per_second(self) -> float | None:
        """Memory read and written by ours."""
        return None if self.num_bytes is None else self.num_bytes / self.ours.median

    @property
    def fraction_of_copy(self) -> float | None:
        """Bytes per second of ours over those of the copy."""
        if self.bytes_per_second is None or self.copy_bytes_per_second is None:
            return None
        return self.bytes_per_second / self.copy_bytes_per_second

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Row":
        """The row that `dataclasses.asdict` took apart."""
        timed = [name for name in ("ours", "peer", "ratio") if value[name] is not None]
        spreads = {name: Spread(**value[name]) for name in timed}
        target = None if value["target"] is None else Target(**value["target"])
        return cls(**{**value, **spreads, "target": target})


@dataclass(frozen=True)
class Result:
    """The rows of one benchmark and where they come from; see benchmarks.environment."""

    benchmark: str
    machine: dict[str, Any]
    versions: dict[str, Any]
    commit: dict[str, Any]
    date: str
    arguments: dict[str, Any]
    rows: list[Row]

    @classmethod
    def of(cls, benchmark: str, rows: list[Row], arguments: dict[str, Any]) -> "Result":
        """Rows that were measured here and now."""
        return cls(
            benchmark=benchmark,
            machine=environment.machine(),
            versions=environment.versions(),
            commit=environment.commit(),
            date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            arguments=arguments,
            rows=rows,
        )

    @property
    def file_name(self) -> str:
        """One file per benchmark and kind of device."""
        on_gpu = self.arguments.get("device") == "cuda"
        return f"{self.benchmark}{'-cuda' if on_gpu else ''}.json"

    def save(self, folder: Path) -> Path:
        """Writes the result into a folder and returns the file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file_name
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> "Result":
        """Reads what `save` wrote."""
        value = json.loads(path.read_text())
        return cls(**{**value, "rows": [Row.from_json(row) for row in value["rows"]]})


def load_all(folder: Path) -> list[Result]:
    """All results of a folder: those on the CPU first, in the order of benchmarks.NAMES."""
    return sorted(map(Result.load, folder.glob("*.json")), key=_place)


def _place(result: Result) -> tuple[bool, int, str]:
    known = NAMES.index(result.benchmark) if result.benchmark in NAMES else len(NAMES)
    return result.arguments.get("device") == "cuda", known, result.benchmark


def rows_to_json(rows: Iterable[Row]) -> str:
    """Rows alone, for the way from one process to another."""
    return json.dumps([dataclasses.asdict(row) for row in rows])


def rows_from_json(text: str) -> list[Row]:
    """The way back of `rows_to_json`."""
    return [Row.from_json(row) for row in json.loads(text)]


def in_words(seconds: float) -> str:
    """A time in nanoseconds, microseconds or seconds."""
    if seconds >= 1:
        return f"{seconds:g} s"
    return f"{1e9 * seconds:g} ns" if seconds < 1e-6 else f"{1e6 * seconds:g} us"
