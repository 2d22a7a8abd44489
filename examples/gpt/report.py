"""What a finished run leaves: the loss curve as a picture, the measurements as JSON, a table."""

import json
import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gpt.history import History
from gpt.text import InputError, Text
from gpt.training import Training

TRAINING_COLOUR, VALIDATION_COLOUR = "#3b76af", "#d1495b"


def make_folder(folder: Path) -> None:
    """Makes the folder of the results, on every rank so that all fail alike.

    Raises:
        InputError: It cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write into the folder {folder}")


def introduce(training: Training, text: Text) -> None:
    """Says on rank 0 what is about to be trained, on what."""
    settings, context = training.settings, training.context
    if context.rank != 0:
        return
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    ranks = f"{context.world_size} rank" + "s" * (context.world_size > 1)
    threads = torch.get_num_threads()
    where = "a GPU" if context.device.type == "cuda" else f"{threads} thread" + "s" * (threads > 1)
    print(
        f"{parameters / 1e6:.2f} M parameters ({settings.layers} layers, {settings.width} wide), "
        f"{len(text.training):,} characters to learn, {len(text.validation):,} held out, "
        f"{len(text.vocabulary)} distinct\n"
        f"{ranks} with {where} each, {settings.batch} x {settings.context} characters per rank "
        "and step"
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes readable JSON through a rename, so that no reader meets half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def surroundings(training: Training) -> dict[str, Any]:
    """The run's options, versions and machine, for the JSON log."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    try:
        versions["pyparallel-runtime"] = metadata.version("pyparallel-runtime")
    except metadata.PackageNotFoundError:
        versions["pyparallel-runtime"] = "from a source folder"
    device = training.context.device
    return {
        "settings": training.settings.as_json(),
        "versions": versions,
        "machine": {
            "cores": os.cpu_count(),
            "threads_per_rank": torch.get_num_threads(),
            "world_size": training.context.world_size,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "platform": platform.platform(),
        },
    }


def write_log(training: Training, history: History, *, wall_seconds: float, sample: str) -> None:
    """Writes `log.json`: surroundings, every step's loss and times, validations and sample."""
    median = history.median()
    content = surroundings(training) | {
        "variant": "torch" if training.settings.baseline else "pyparallel",
        "wall_seconds": wall_seconds,
        "median_step_ms": median.seconds * 1e3,
        "median_part_ms": {name: seconds * 1e3 for name, seconds in median.parts.items()},
        "validations": [{"step": step, "loss": loss} for step, loss in history.validations],
        "losses": history.losses,
        "step_ms": [round(seconds * 1e3, 4) for seconds in history.step_seconds],
        "part_ms": {
            name: [round(seconds * 1e3, 4) for seconds in all_seconds]
            for name, all_seconds in history.part_seconds.items()
        },
        "sample": sample,
    }
    write_json(training.settings.out / "log.json", content)


def print_times(console: Console, training: Training, history: History) -> None:
    """Prints where the median step's time went."""
    median = history.median()
    settings = training.settings
    tokens = training.context.world_size * settings.batch * settings.context
    table = Table(title=f"a step's time, median of {history.steps_done}")
    table.add_column("part of the step")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in median.parts.items():
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{seconds / median.seconds:.1%}")
    table.add_section()
    table.add_row("step", f"{median.seconds * 1e3:.2f}", f"{tokens / median.seconds:,.0f} tokens/s")
    console.print(table)


def draw_loss_curve(path: Path, history: History, *, title: str) -> None:
    """Draws the training and validation loss over the steps into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=150, layout="constrained")
    steps = range(1, history.steps_done + 1)
    axes.plot(steps, history.losses, color=TRAINING_COLOUR, alpha=0.25, linewidth=0.8)
    axes.plot(
        steps, smoothed(history.losses), color=TRAINING_COLOUR, linewidth=1.8, label="training"
    )
    if history.validations:
        at, losses = zip(*history.validations, strict=True)
        axes.plot(at, losses, "o-", color=VALIDATION_COLOUR, label="validation (held-out text)")
        axes.annotate(
            f"{losses[-1]:.3f}",
            (at[-1], losses[-1]),
            textcoords="offset points",
            xytext=(0, 9),
            ha="center",
            color=VALIDATION_COLOUR,
            fontweight="bold",
        )
    axes.set(xlabel="step", ylabel="loss (nats per character)", title=title)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set_xlim(0, history.steps_done * 1.03)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    temporary = path.with_name(path.name + ".tmp")
    figure.savefig(temporary, format="png")
    pyplot.close(figure)
    os.replace(temporary, path)


def smoothed(losses: list[float], *, reach: int = 20) -> list[float]:
    """The mean over `reach` steps on either side; over fewer at the start, where the loss falls."""
    smooth = []
    for middle in range(len(losses)):
        half = min(reach, middle)
        smooth.append(statistics.fmean(losses[middle - half : middle + half + 1]))
    return smooth
