"""Replay: recorded allocations through pools' policies, to see what each would have held."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table

from pyparallel._native import core
from pyparallel.memory import traces
from pyparallel.memory.traces import Trace

POLICIES: tuple[str, ...] = tuple(core.replay_policies())
_CHUNK = 1 << 18  # events between two signs of life
_PAGE = 2 << 20  # bytes: no device is asked for a finer answer


@dataclass(frozen=True)
class Outcome:
    """What a policy made of a trace; sizes in bytes.

    Attributes:
        policy: its name.
        fits: False if the device was too small; the other numbers are then of the events before.
        peak_live: the most that was asked for and live at once.
        peak_reserved: the most that was held from the device.
        growths: how often memory was taken from the device.
        nanoseconds: per event.
    """

    policy: str
    fits: bool
    peak_live: int
    peak_reserved: int
    growths: int
    nanoseconds: float

    @property
    def utilisation(self) -> float:
        """Peak live / peak reserved; 1 for a trace that allocates nothing."""
        return self.peak_live / self.peak_reserved if self.peak_reserved else 1.0


def replay(
    trace: Trace,
    policy: str = "pyparallel",
    *,
    device: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Plays a trace through a policy. Nothing is allocated.

    Args:
        trace: the history.
        policy: one of POLICIES: "pyparallel", our pool over pages mapped into a reserved range;
            "pyparallel-segments", the same where memory cannot grow at its end; "torch" and
            "torch-expandable", PyTorch's CUDA allocator; "rmm", RMM's pool_memory_resource;
            "rmm-arena", its arena_memory_resource.
        device: bytes that the device has; default: no limit.
        progress: is called with the number of events done, every 262,144.

    Raises:
        ValueError: an unknown policy, or a trace that frees what is not live.
    """
    run = core.Replay(policy, device)
    fits, done = True, 0
    while fits and done < len(trace):
        part = slice(done, done + _CHUNK)
        fits = run.run(trace.block[part], trace.num_bytes[part], trace.stream[part])
        done = min(part.stop, len(trace))
        if progress is not None:
            progress(done)
    nanoseconds = run.nanoseconds / max(len(trace), 1)
    return Outcome(policy, fits, run.peak_requested, run.peak_reserved, run.growths, nanoseconds)


def smallest_device(
    trace: Trace, policy: str, *, progress: Callable[[int], None] | None = None
) -> int:
    """The bytes of the smallest device that the trace fits on, a multiple of 2 MiB.

    The policy does there what it does when memory is short. Found by bisection between what is live
    and what is held without a limit, which takes it that a policy fits on every larger device.

    Raises:
        ValueError: as `replay`.
    """
    free = replay(trace, policy, progress=progress)

    def fits(pages: int) -> bool:
        return replay(trace, policy, device=pages * _PAGE, progress=progress).fits

    # Pages in which the trace does not fit, and in which it does. With a limit a policy may grow
    # in other steps than without, and need more.
    low, high = -(-free.peak_live // _PAGE) - 1, -(-free.peak_reserved // _PAGE)
    while not fits(high):
        low, high = high, high + high // 16 + 1
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle
    return high * _PAGE


@dataclass(frozen=True)
class Comparison:
    """A trace through several policies: outcomes, and the smallest device of each in bytes."""

    name: str
    events: int
    remarks: dict[str, int]
    outcomes: tuple[Outcome, ...]
    devices: tuple[int, ...]

    def as_dict(self) -> dict[str, object]:
        """Plain data, as `--json` prints it."""
        policies = [
            {**asdict(outcome), "utilisation": outcome.utilisation, "smallest_device": device}
            for outcome, device in zip(self.outcomes, self.devices, strict=True)
        ]
        return {
            "trace": self.name,
            "events": self.events,
            "remarks": self.remarks,
            "policies": policies,
        }

    def as_table(self) -> Table:
        """A table for people; remarks on the trace stand below it."""
        remarks = [f"{count:,} {what}" for what, count in self.remarks.items()]
        title = f"{self.name}: {self.events:,} events"
        table = Table("policy", title=title, caption="\n".join(remarks) or None)
        for column in ("peak live", "peak held", "utilisation", "fits on", "growths", "ns/event"):
            table.add_column(column, justify="right")
        for outcome, device in zip(self.outcomes, self.devices, strict=True):
            table.add_row(
                outcome.policy,
                _mib(outcome.peak_live),
                _mib(outcome.peak_reserved),
                f"{outcome.utilisation:.2%}",
                _mib(device),
                str(outcome.growths),
                f"{outcome.nanoseconds:.0f}",
            )
        return table


def compare(
    trace: Trace,
    name: str,
    policies: Sequence[str] = POLICIES,
    *,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Plays a trace through each policy, and again to find the smallest device of each.

    Raises:
        ValueError: as `replay`.
    """
    outcomes = tuple(replay(trace, policy, progress=progress) for policy in policies)
    devices = tuple(smallest_device(trace, policy, progress=progress) for policy in policies)
    return Comparison(name, len(trace), trace.remarks, outcomes, devices)


def show(
    paths: Sequence[str],
    policies: Sequence[str] = POLICIES,
    *,
    device: int = 0,
    as_json: bool = False,
) -> None:
    """Prints what each policy makes of each file, and shows what takes longer than a second.

    Args:
        paths: files that `traces.load` reads.
        policies: of POLICIES.
        device: whose history to take from a torch snapshot.
        as_json: print one JSON list instead of tables.

    Raises:
        ValueError: a file that is no trace, or an unknown policy.
        FileNotFoundError: there is no such file.
    """
    comparisons = []
    for path in paths:
        trace = traces.load(path, device=device)
        with _Alive(Path(path).name) as alive:
            comparisons.append(compare(trace, Path(path).name, policies, progress=alive))
        if not as_json:
            Console().print(comparisons[-1].as_table())
    if as_json:
        print(json.dumps([comparison.as_dict() for comparison in comparisons], indent=2))


class _Alive:
    """A line on stderr with the number of events, from the second second on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start = time.monotonic()
        self._events = self._last = 0
        self._status: Status | None = None

    def __call__(self, done: int) -> None:
        self._events += done - self._last if done > self._last else done
        self._last = done
        if time.monotonic() - self._start < 1:
            return
        text = f"{self._name}: {self._events:,} events replayed"
        if self._status is None:
            self._status = Status(text, console=Console(stderr=True))
            self._status.start()
        self._status.update(text)

    def __enter__(self) -> _Alive:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 20):,.1f} MiB"
