"""Ours against torch's own parts: both trained in the same processes, step by step in turn.

Every step trains three models on the same batch, in all orders in turn, so that the machine's
noise hits all alike: ours, torch's, and a bare one that never leaves its process and so tells what
forward and backward cost alone.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from gpt.history import History, Measurement, mean
from gpt.progress import Display
from gpt.report import surroundings, write_json
from gpt.settings import Settings
from gpt.text import Batch, Text
from gpt.training import FORWARD_BACKWARD_REDUCE, Training

# At the full learning rate training is chaotic: after some 120 steps two runs that differ in the
# last bit of a float32 drift apart by a factor of ten every 30 steps, whoever computed them. At an
# eighth of it they do not (5e-7 after 400 steps), so a difference tells of the arithmetic. The
# tolerance is some hundred float32 roundings of a loss near 3; bfloat16 has 2^16 coarser ones.
LEARNING_RATE_SHARE = 1 / 8
LOSS_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}
NOT_TOLD = "·"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The three histories, as means over the ranks, and what they come to in milliseconds."""

    ours: History
    theirs: History
    bare: History

    @property
    def loss_difference(self) -> float:
        """The largest absolute difference between both loss curves, in nats per character."""
        pairs = zip(self.ours.losses, self.theirs.losses, strict=True)
        return max(abs(ours - theirs) for ours, theirs in pairs)

    def rows(self) -> dict[str, tuple[float | None, float | None]]:
        """Median milliseconds by part, ours and torch's; None where a library does not tell."""
        skip = self.ours.steps_done // 10  # while caches and buffers warm up
        ours, theirs = self.ours.median(skip=skip), self.theirs.median(skip=skip)
        bare = self.bare.median(skip=skip).seconds
        told = {name: (ours.parts[name], None) for name in ("pack", "reduce", "waiting")}
        to_optimizer = ours.seconds - ours.parts["optimizer"] - bare
        seconds: dict[str, tuple[float | None, float | None]] = {
            "forward+backward alone": (bare, bare),
            **told,
            "all that data parallelism adds to it": (
                to_optimizer,
                theirs.parts[FORWARD_BACKWARD_REDUCE] - bare,
            ),
            "optimizer": (ours.parts["optimizer"], theirs.parts["optimizer"]),
            "step": (ours.seconds, theirs.seconds),
            "step without forward+backward": (ours.seconds - bare, theirs.seconds - bare),
        }
        return {
            name: tuple(None if one is None else one * 1e3 for one in pair)  # type: ignore[misc]
            for name, pair in seconds.items()
        }


def gentle(settings: Settings) -> Settings:
    """The same run at a learning rate that does not amplify rounding."""
    rate = settings.learning_rate * LEARNING_RATE_SHARE
    return dataclasses.replace(settings, learning_rate=rate)


def compare(text: Text, *, ours: Training, theirs: Training, bare: Training) -> bool:
    """Measures, prints the table and writes `compare.json`.

    Args:
        text: Where the batches come from.
        ours: pyparallel's parts.
        theirs: torch's parts, from the same seed.
        bare: The same model, not wrapped.

    Returns:
        Whether the loss curves agree; if not, a sentence says so.
    """
    comparison = _measure(text, ours=ours, theirs=theirs, bare=bare)
    tolerance = LOSS_TOLERANCE[ours.settings.precision]
    agree = comparison.loss_difference <= tolerance
    if ours.context.rank == 0:
        _print(comparison, ours)
        _write(comparison, ours)
        if not agree:
            print(
                f"train_gpt.py: the loss curves differ by {comparison.loss_difference:.1e} "
                f"nats/char, but rounding explains only {tolerance:.0e}",
                file=sys.stderr,
            )
    return agree


def _measure(text: Text, *, ours: Training, theirs: Training, bare: Training) -> Comparison:
    settings, context = ours.settings, ours.context
    measured: dict[str, list[Measurement]] = {"ours": [], "theirs": [], "bare": []}
    orders = itertools.cycle(itertools.permutations(measured))
    runs: dict[str, Callable[[Batch, int], Measurement]] = {
        "ours": lambda batch, step: ours.step(batch, step=step),
        "theirs": lambda batch, step: theirs.step(batch, step=step),
        "bare": lambda batch, step: _bare_step(bare, batch),
    }
    tokens = context.world_size * settings.batch * settings.context
    with Display(
        first_step=0,
        last_step=settings.compare_steps,
        tokens_per_step=tokens,
        visible=context.rank == 0,
    ) as display:
        for step, order in zip(range(settings.compare_steps), orders, strict=False):
            batch = text.training_batch(
                size=settings.batch, step=step, rank=context.rank, seed=settings.seed
            )
            for name in order:
                context.communicator.barrier().wait()
                measured[name].append(runs[name](batch, step))
            if (step + 1) % settings.report_every == 0 or step + 1 == settings.compare_steps:
                display.show(step + 1, mean(measured["ours"][-settings.report_every :]))
    histories = {name: History() for name in measured}
    for name, measurements in measured.items():
        histories[name].extend(ours.mean_over_ranks(measurements))
    return Comparison(**histories)


def _bare_step(bare: Training, batch: Batch) -> Measurement:
    start = bare.clock()
    loss = bare.forward_backward(batch)
    seconds = bare.clock() - start
    bare.model.zero_grad()
    return Measurement(float(loss), seconds, {})


def _print(comparison: Comparison, training: Training) -> None:
    settings, world_size = training.settings, training.context.world_size
    tokens = world_size * settings.batch * settings.context
    table = Table(
        title=f"median of {settings.compare_steps} steps, {tokens:,} tokens on {world_size} ranks",
        caption="ratio: torch's time divided by pyparallel's",
    )
    for heading in ("ms", "pyparallel", "torch", "ratio"):
        table.add_column(heading, justify="left" if heading == "ms" else "right")
    rows = comparison.rows()
    for name, (ours, theirs) in rows.items():
        if name == "step":
            table.add_section()
        ratio = f"{theirs / ours:.2f}x" if ours and theirs and ours != theirs else ""
        table.add_row(name, _cell(ours), _cell(theirs), ratio)
    ours_ms, theirs_ms = rows["step"]
    assert ours_ms
    assert theirs_ms
    table.add_section()
    table.add_row("tokens/s", f"{tokens / ours_ms * 1e3:,.0f}", f"{tokens / theirs_ms * 1e3:,.0f}")
    table.add_row(
        "last loss", *(f"{one.losses[-1]:.4f}" for one in (comparison.ours, comparison.theirs))
    )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"largest difference between the loss curves: {comparison.loss_difference:.1e} nats/char "
        f"(rounding explains up to {LOSS_TOLERANCE[settings.precision]:.0e})"
    )


def _cell(milliseconds: float | None) -> str:
    return NOT_TOLD if milliseconds is None else f"{milliseconds:.2f}"


def _write(comparison: Comparison, training: Training) -> None:
    content = surroundings(training) | {
        "median_ms": {
            name: {"pyparallel": ours, "torch": theirs}
            for name, (ours, theirs) in comparison.rows().items()
        },
        "loss_difference": comparison.loss_difference,
        "loss_tolerance": LOSS_TOLERANCE[training.settings.precision],
        "losses": {"pyparallel": comparison.ours.losses, "torch": comparison.theirs.losses},
        "step_ms": {
            name: [seconds * 1e3 for seconds in history.step_seconds]
            for name, history in (
                ("pyparallel", comparison.ours),
                ("torch", comparison.theirs),
                ("bare", comparison.bare),
            )
        },
    }
    path = training.settings.out / "compare.json"
    write_json(path, content)
    print(f"written: {path}")
