"""Trains a character GPT on a text, data-parallel over all ranks.

    python -m pyparallel run -n 2 examples/train_gpt.py
    torchrun --standalone --nproc-per-node 2 examples/train_gpt.py
    python examples/train_gpt.py

The three lines of `build` that name the `library` make it parallel, the one of `open_batches`
reads ahead; the rest is plain torch.
"""

import contextlib
import os
import sys
import time
from typing import Any

import torch
from rich.console import Console

import pyparallel
from gpt import checkpoint, compare, report, torch_parts
from gpt.history import History, Measurement, mean
from gpt.model import GPT, GPTConfig
from gpt.progress import Display
from gpt.settings import Settings, parse_settings
from gpt.text import InputError, Text, read_text
from gpt.training import Training

SECONDS_FOR_RANK_0 = 10


def make_model(settings: Settings, text: Text) -> GPT:
    """Draws the model's parameters from the seed, the same on every rank."""
    torch.manual_seed(settings.seed)
    config = GPTConfig(
        vocabulary_size=len(text.vocabulary),
        context=settings.context,
        layers=settings.layers,
        heads=settings.heads,
        width=settings.width,
    )
    return GPT(config)


def build(library: Any, settings: Settings, text: Text) -> Training:
    """Makes the model parallel.

    Args:
        library: `pyparallel`, or `torch_parts` for torch's own parts under the same names.
        settings: The run's options.
        text: Gives the number of characters to tell apart.
    """
    context = library.init()
    model = library.DataParallel(make_model(settings, text).to(context.device))
    optimizer = library.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
    )
    return Training(context, model, optimizer, settings)


def open_batches(library: Any, training: Training, text: Text, *, first_step: int) -> Any:
    """This rank's batches up to the last step, some of them drawn while the step computes."""
    settings, context = training.settings, training.context
    steps = range(first_step, settings.last_step)
    batches = text.training_batches(
        steps, size=settings.batch, rank=context.rank, seed=settings.seed
    )
    if not settings.read_ahead:
        return contextlib.nullcontext(batches)
    return library.data.Prefetcher(batches, context.device, depth=settings.read_ahead)


def train(library: Any, training: Training, text: Text, history: History) -> None:
    """Trains from where `history` ends to the last step, reporting, validating and saving."""
    settings, context = training.settings, training.context
    pending: list[Measurement] = []
    first_step = history.steps_done
    with (
        open_batches(library, training, text, first_step=first_step) as batches,
        Display(
            first_step=first_step,
            last_step=settings.last_step,
            tokens_per_step=context.world_size * settings.batch * settings.context,
            visible=context.rank == 0,
        ) as display,
    ):
        for step, batch in enumerate(batches, first_step):
            pending.append(training.step(batch, step=step))
            done = step + 1
            save = done % settings.validate_every == 0 or done == settings.last_step
            if save or done % settings.report_every == 0:
                averages = training.mean_over_ranks(pending)
                history.extend(averages)
                display.show(done, mean(averages))
                pending.clear()
            if done % settings.validate_every == 0 or done == settings.steps:
                history.validations.append((done, validate(training, text)))
                display.say(
                    f"validation loss {history.validations[-1][1]:.4f} nats/char after {done} steps"
                )
            if save:
                checkpoint.save(training, history, vocabulary=text.vocabulary)
        if isinstance(batches, pyparallel.data.Prefetcher):
            display.say(f"input: {str(batches.report()).splitlines()[0]}")


def validate(training: Training, text: Text) -> float:
    """The loss on the held-out text, of which each rank reads its share."""
    return training.validate(
        text.validation_batches(
            most_sequences=training.settings.validation_sequences,
            rank=training.context.rank,
            world_size=training.context.world_size,
        )
    )


def sample(training: Training, text: Text) -> str:
    """Lets the model write, from the beginning of a line."""
    settings, device = training.settings, training.context.device
    start = text.encode("\n" if "\n" in text.vocabulary else text.vocabulary[0])
    tokens = training.model.module.generate(
        torch.tensor([start], device=device),
        num_tokens=settings.sample_tokens,
        temperature=settings.temperature,
        generator=torch.Generator(device).manual_seed(settings.seed),
    )
    return text.decode(tokens[0].tolist()).strip("\n")


def finish(training: Training, text: Text, history: History, *, started: float) -> None:
    """Prints and writes what the run came to, from rank 0."""
    settings = training.settings
    console = Console(highlight=False)
    report.print_times(console, training, history)
    written = sample(training, text)
    console.rule(f"a sample of {settings.sample_tokens} characters")
    console.print(written, markup=False, soft_wrap=True)
    console.rule()
    variant = "torch's own parts" if settings.baseline else "pyparallel"
    world_size = training.context.world_size
    report.draw_loss_curve(
        settings.out / "loss.png", history, title=f"character GPT on {world_size} ranks, {variant}"
    )
    wall_seconds = time.perf_counter() - started
    report.write_log(training, history, wall_seconds=wall_seconds, sample=written)
    result = f"best validation loss {history.best_loss:.4f} nats/char, "
    console.print(
        f"{result if history.validations else ''}{history.steps_done} steps, "
        f"this run took {wall_seconds:.0f} s\n"
        f"written: {settings.out}/ loss.png, log.json, {checkpoint.NAME}",
        soft_wrap=True,
    )


def measure_both(settings: Settings, text: Text) -> bool:
    """Trains with pyparallel and with torch's own parts in turn; False if the losses disagree."""
    ours, theirs = (build(library, settings, text) for library in (pyparallel, torch_parts))
    model = make_model(settings, text).to(ours.context.device)
    report.introduce(ours, text)
    bare = Training(ours.context, model, None, settings)
    agree = compare.compare(text, ours=ours, theirs=theirs, bare=bare)
    ours.context.communicator.barrier().wait()
    return agree


def run(settings: Settings, *, started: float) -> bool:
    """Does what the options say; False when `--compare` finds that the losses disagree."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    text = read_text(settings.text, context=settings.context)
    report.make_folder(settings.out)
    if settings.compare:
        return measure_both(compare.gentle(settings), text)
    library = torch_parts if settings.baseline else pyparallel
    training = build(library, settings, text)
    history = History()
    if settings.resume:
        history = checkpoint.resume(training, vocabulary=text.vocabulary)
    report.introduce(training, text)
    train(library, training, text, history)
    if training.context.rank == 0:
        finish(training, text, history, started=started)
    # Gloo's threads abort a rank that leaves while they still hold its last tensors.
    training.context.communicator.barrier().wait()
    return True


def main() -> int:
    """Runs; an input that cannot be used is one sentence and exit code 2."""
    started = time.perf_counter()
    try:
        return 0 if run(parse_settings(), started=started) else 1
    except InputError as error:
        if os.environ.get("RANK", "0") != "0":
            # Rank 0 most likely says the same, whereupon the launcher ends this process.
            time.sleep(SECONDS_FOR_RANK_0)
        print(f"train_gpt.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
