"""What waiting for batches adds to a step: data.Prefetcher against torch's DataLoader, one worker.

Four loops take turns over a loader that costs 5 ms a batch beside a step of 6 ms:

    ours    data.Prefetcher: a thread reads
    peer    DataLoader(num_workers=1): a process reads
    plain   the loop itself reads
    bare    the steps alone, on one batch

The overhead is what a step takes longer than the bare one of the same round. A loader's 5 ms are
spent asleep (waiting for storage), hashing (work that releases the GIL, as decoders do), or in
Python, which holds the GIL, so that the step's own Python waits for it; there the thread is to read
from a process, as the last row does.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks import command
from benchmarks.results import Row
from pyparallel.cli.timer import Contestant, Measurement, Spread
from pyparallel.data import Prefetcher

NAME = "prefetch"
OURS, PEER, PLAIN, BARE = "ours", "peer", "plain", "bare"
MOST_SECONDS = 0.3e-3
FIRST_BATCHES = 4
WIDTH = 256
Work = Callable[[int], object]


def sleep(amount: int) -> None:
    """Microseconds."""
    time.sleep(amount * 1e-6)


def hash_bytes(amount: int) -> None:
    """Blocks of 4 KiB, without the GIL."""
    hashlib.sha256(bytes(amount << 12)).digest()


def count(amount: int) -> None:
    """Hundreds of additions in Python."""
    total = 0
    for number in range(100 * amount):
        total += number


@dataclass(frozen=True)
class Kind:
    """How a loader spends its time, and what ours reads from."""

    words: str
    work: Work
    over_process: bool = False
    most_seconds: float | None = None


KINDS = (
    Kind("asleep", sleep, most_seconds=MOST_SECONDS),
    Kind("without the GIL", hash_bytes),
    Kind("holding the GIL", count),
    Kind("holding the GIL, ours over a DataLoader", count, over_process=True),
)


class Batches(Dataset):
    """Batches that cost time; the number of a batch is in its values."""

    def __init__(self, work: Work, amount: int, *, num_bytes: int, length: int) -> None:
        self.work, self.amount = work, amount
        self.num_bytes, self.length = num_bytes, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        if index >= self.length:
            raise IndexError
        self.work(self.amount)
        return torch.full((self.num_bytes // 4,), float(index))


class Loop:
    """Steps over a loader; the first batches come before the clock runs."""

    def __init__(
        self, begin: Callable[[], Iterator[Tensor]], step: Callable[[Tensor], object], steps: int
    ) -> None:
        self._begin, self._step, self._steps = begin, step, steps
        self._iterator: Iterator[Tensor] = iter(())

    def end(self) -> None:
        """Ends what reads ahead."""
        self._iterator = iter(())

    def begin(self) -> None:
        """Begins a pass."""
        self._iterator = self._begin()
        for _ in range(FIRST_BATCHES):
            self._step(next(self._iterator))

    def run(self) -> None:
        """What is timed."""
        for _ in range(self._steps):
            self._step(next(self._iterator))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    parser = command.parser(NAME, __doc__.partition("\n")[0], rounds=16)
    parser.add_argument("--steps", type=command.positive, default=50, help="of a round")
    parser.add_argument("--kibibytes", type=command.positive, default=1024, help="of a batch")
    parser.add_argument("--load-ms", type=float, default=5.0, help="that a batch costs")
    parser.add_argument("--step-ms", type=float, default=6.0, help="that a step takes")
    options = parser.parse_args(arguments)
    options.threads = options.threads or 1
    torch.set_num_threads(options.threads)
    default = command.is_default(options, parser)
    return command.run(
        NAME, options, lambda: [measure(kind, options, default=default) for kind in KINDS]
    )


def measure(kind: Kind, options: argparse.Namespace, *, default: bool) -> Row:
    """One kind of loader."""
    amount = amount_for(kind.work, options.load_ms * 1e-3)
    batches = Batches(
        kind.work,
        amount,
        num_bytes=options.kibibytes << 10,
        length=FIRST_BATCHES + options.steps + 100,
    )
    prefetcher, begins = loaders(kind, batches, device=options.device)
    step = make_step(options)
    loops = {name: Loop(begin, step, options.steps) for name, begin in begins.items()}

    def only(name: str) -> Callable[[], None]:
        def prepare() -> None:
            for loop in loops.values():
                loop.end()
            loops[name].begin()

        return prepare

    timer = command.timer(options)
    label = f"a loader of {options.load_ms:g} ms {kind.words}, a step of {options.step_ms:g} ms"
    with command.progress(label, timer) as advance:
        measurement = timer.compare(
            [Contestant(name, loop.run, only(name)) for name, loop in loops.items()],
            verify=lambda: verify(begins),
            advance=advance,
        )
    for loop in loops.values():
        loop.end()
    return overhead_row(
        f"{label}: added to a step",
        measurement,
        steps=options.steps,
        most_seconds=kind.most_seconds if default else None,
        verdict=prefetcher.report().verdict,
    )


def loaders(
    kind: Kind, batches: Batches, *, device: str
) -> tuple[Prefetcher, dict[str, Callable[[], Iterator[Tensor]]]]:
    """Ours, and what begins a pass of each contestant, by its name."""
    in_process = DataLoader(batches, batch_size=None, num_workers=1, pin_memory=device == "cuda")
    ours = Prefetcher(in_process if kind.over_process else batches, device)
    batch = torch.zeros(batches.num_bytes // 4, device=device)
    endless = iter(lambda: batch, None)
    return ours, {
        OURS: lambda: iter(ours),
        PEER: lambda: iter(in_process),
        PLAIN: lambda: iter(batches),  # type: ignore[call-overload]
        BARE: lambda: endless,
    }


def make_step(options: argparse.Namespace) -> Callable[[Tensor], object]:
    """Products of matrices, whose number is waited for as a loss that is printed would be."""
    device = options.device
    weight = torch.randn(WIDTH, WIDTH, device=device) / WIDTH**0.5

    def multiply(times: int, batch: Tensor) -> float:
        values = batch.to(device, non_blocking=True)[:WIDTH].expand(WIDTH, -1)
        for _ in range(times):
            values = values @ weight
        return float(values[0, 0])

    batch = torch.ones(max(WIDTH, options.kibibytes << 8), device=device)
    times = amount_for(lambda number: multiply(number, batch), options.step_ms * 1e-3)
    return lambda batch: multiply(times, batch)


def amount_for(work: Work, seconds: float) -> int:
    """How much of some work takes so long, by the fastest of some runs."""

    def fastest(amount: int) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            work(amount)
            times.append(time.perf_counter() - start)
        return min(times)

    amount = 1
    while (taken := fastest(amount)) < seconds / 2:
        amount *= 2
    return max(1, round(amount * seconds / taken))


def verify(begins: dict[str, Callable[[], Iterator[Tensor]]]) -> None:
    """All give the same batches in the same order."""
    for name in (OURS, PEER, PLAIN):
        iterator = begins[name]()
        for number in range(FIRST_BATCHES):
            batch = next(iterator)
            assert bool((batch == number).all()), f"{name}: batch {number} is {float(batch[0])}"


def overhead_row(
    label: str,
    measurement: Measurement,
    *,
    steps: int,
    most_seconds: float | None,
    verdict: str,
) -> Row:
    """Seconds per step beyond a bare one. They may be next to nothing: there is no ratio."""
    spreads = {
        name: Spread.of(more / steps for more in measurement.difference(name, BARE))
        for name in (OURS, PEER, PLAIN)
    }
    bare = measurement.time(BARE).median / steps
    details: dict[str, Any] = {
        "plain loop": f"{1e3 * spreads[PLAIN].median:.2f} ms",
        "bare step": f"{1e3 * bare:.2f} ms",
        "verdict": verdict,
    }
    return Row(
        label=label,
        peer_name="DataLoader, 1 worker",
        ours=spreads[OURS],
        peer=spreads[PEER],
        ratio=None,
        most_seconds=most_seconds,
        details=details,
    )


if __name__ == "__main__":
    sys.exit(main())
