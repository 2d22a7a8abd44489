"""What training measures: one `Measurement` per step, collected in a `History`."""

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One step, on one rank or as the mean over the ranks.

    Attributes:
        loss: Training loss in nats per character.
        seconds: Duration of the step.
        parts: Seconds of the step's parts, by name; they sum to `seconds`.
    """

    loss: float
    seconds: float
    parts: dict[str, float]


@dataclasses.dataclass
class History:
    """A run so far, in lists that JSON and a checkpoint can hold.

    Attributes:
        losses: Training loss of every step, in nats per character.
        step_seconds: Duration of every step.
        part_seconds: Durations by part, for the steps in which that part was measured.
        validations: Pairs of steps done and validation loss.
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    step_seconds: list[float] = dataclasses.field(default_factory=list)
    part_seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    validations: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    @property
    def steps_done(self) -> int:
        """Steps trained so far."""
        return len(self.losses)

    @property
    def best_loss(self) -> float:
        """Smallest validation loss so far; infinite before the first."""
        return min((loss for _, loss in self.validations), default=float("inf"))

    def extend(self, measurements: Sequence[Measurement]) -> None:
        """Appends steps."""
        for measurement in measurements:
            self.losses.append(measurement.loss)
            self.step_seconds.append(measurement.seconds)
            for name, seconds in measurement.parts.items():
                self.part_seconds.setdefault(name, []).append(seconds)

    def median(self, *, skip: int = 0) -> Measurement:
        """The median of each number on its own, leaving out the first `skip` steps."""
        return Measurement(
            loss=statistics.median(self.losses[skip:]),
            seconds=statistics.median(self.step_seconds[skip:]),
            parts={
                name: statistics.median(seconds[skip:])
                for name, seconds in self.part_seconds.items()
            },
        )


def mean(measurements: Sequence[Measurement]) -> Measurement:
    """The mean of steps that have the same parts."""
    return Measurement(
        loss=statistics.fmean(one.loss for one in measurements),
        seconds=statistics.fmean(one.seconds for one in measurements),
        parts={
            name: statistics.fmean(one.parts[name] for one in measurements)
            for name in measurements[0].parts
        },
    )
