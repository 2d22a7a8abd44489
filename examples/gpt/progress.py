"""What rank 0 shows while it trains: a live picture on a terminal, else a line now and then."""

import sys
import time
import types

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from gpt.history import Measurement

PLAIN_SECONDS = 5.0
ESTIMATE_AFTER_STEPS = 20
BAR_WIDTH = 60
COLOURS = {"pack": "yellow", "reduce": "magenta", "optimizer": "cyan", "waiting": "bright_black"}


class Display:
    """The progress of one run; on ranks other than 0 it shows nothing.

    Args:
        first_step: Steps done before this run.
        last_step: Where this run ends.
        tokens_per_step: Of all ranks together.
        visible: Whether this rank shows anything.
    """

    def __init__(
        self, *, first_step: int, last_step: int, tokens_per_step: int, visible: bool
    ) -> None:
        self._tokens_per_step = tokens_per_step
        self._first_step, self._last_step = first_step, last_step
        self._started = time.perf_counter()
        self._last_plain = float("-inf")
        self._console = Console(quiet=not visible, highlight=False)
        self._estimated = False
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")
        )
        self._task = self._bar.add_task("train", total=last_step, completed=first_step, state="")
        if visible and self._console.is_terminal:
            self._live = Live(self._bar, console=self._console, refresh_per_second=4)

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, message: str) -> None:
        """Prints a line that stays."""
        self._console.print(message, soft_wrap=True)
        sys.stdout.flush()

    def show(self, step: int, recent: Measurement) -> None:
        """Shows where the run is: the steps done, and the mean of the last of them."""
        if not self._estimated and step - self._first_step >= ESTIMATE_AFTER_STEPS:
            self._estimated = True
            self.say(f"about {_readable(self._left(step))} on this machine")
        tokens = f"{self._tokens_per_step / recent.seconds:,.0f} tokens/s"
        place = f"step {step:>{len(str(self._last_step))}}/{self._last_step}"
        if self._live:
            state = f"{place}  loss {recent.loss:.3f}  {tokens}  {_readable(self._left(step))} left"
            self._bar.update(self._task, completed=step, state=state)
            self._live.update(Group(self._bar, stacked_bar(recent.parts), legend(recent)))
        elif time.perf_counter() - self._last_plain > PLAIN_SECONDS or step == self._last_step:
            self._last_plain = time.perf_counter()
            self.say(
                f"{place}  loss {recent.loss:.3f}  {tokens}  {legend(recent).plain}  "
                f"{_readable(self._left(step))} left"
            )

    def _left(self, step: int) -> float:
        spent = time.perf_counter() - self._started
        return spent / (step - self._first_step) * (self._last_step - step)


def _readable(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def stacked_bar(parts: dict[str, float]) -> Text:
    """A bar whose colours are the shares of a step's parts."""
    total = sum(parts.values()) or 1.0
    bar, drawn, so_far = Text("  "), 0, 0.0
    for name, seconds in parts.items():
        so_far += seconds
        end = round(BAR_WIDTH * so_far / total)
        bar.append("█" * (end - drawn), style=COLOURS.get(name, "green"))
        drawn = end
    return bar


def legend(recent: Measurement) -> Text:
    """A step's milliseconds and those of its parts, in the bar's colours."""
    line = Text(f"  {recent.seconds * 1e3:.1f} ms/step:")
    for name, seconds in recent.parts.items():
        line.append(f"  {name} {seconds * 1e3:.1f}", style=COLOURS.get(name, "green"))
    return line
