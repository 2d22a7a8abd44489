"""Save and resume: one file that is either the old checkpoint or the new one, never half of one."""

import dataclasses
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from gpt.history import History
from gpt.settings import FIXED_BY_CHECKPOINT
from gpt.text import InputError
from gpt.training import Training

NAME = "checkpoint.pt"


def save(training: Training, history: History, *, vocabulary: str) -> None:
    """Writes the checkpoint of a run, from rank 0 only.

    The position in the data needs no saving: a batch is a function of seed, rank and step, and
    nothing else in training is random. The file appears by a rename, so a reader or a crash
    never meets half of it.
    """
    if training.context.rank != 0:
        return
    content = {
        "model": training.model.module.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "step": history.steps_done,
        "best_loss": history.best_loss,
        "history": dataclasses.asdict(history),
        "vocabulary": vocabulary,
        "settings": training.settings.as_json() | {"world_size": training.context.world_size},
    }
    folder = training.settings.out
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=NAME, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / NAME)
    except BaseException:
        os.unlink(temporary)
        raise


def resume(training: Training, *, vocabulary: str) -> History:
    """Puts the checkpoint's parameters and optimizer state in place.

    Either library's checkpoint fits the other.

    Returns:
        The history up to the checkpoint.

    Raises:
        InputError: There is no checkpoint, or it came from another text, other options or another
            number of ranks, so that going on would not be the same training.
    """
    path = training.settings.out / NAME
    content = _read(path)
    saved, now = content["settings"], training.settings.as_json()
    now["world_size"] = training.context.world_size
    for name in (*FIXED_BY_CHECKPOINT, "world_size"):
        if saved[name] != now[name]:
            raise InputError(
                f"cannot resume from {path}: it was saved with {name} {saved[name]}, "
                f"but this run has {name} {now[name]}"
            )
    if content["vocabulary"] != vocabulary:
        raise InputError(
            f"cannot resume from {path}: its text has {len(content['vocabulary'])} distinct "
            f"characters and this one {len(vocabulary)}, or they are not the same characters"
        )
    training.model.module.load_state_dict(content["model"])
    training.optimizer.load_state_dict(content["optimizer"])
    return History(**content["history"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"cannot resume from {path}: {error.strerror}") from error
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"cannot resume from {path}: it is not a whole checkpoint") from error
    return content
