"""The text: read, checked, turned into character indices, cut into training and validation batches.

Shapes: B sequences in the batch, T positions (the context).
"""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

VALIDATION_FRACTION = 0.1
VALIDATION_BATCH = 32

Batch = tuple[Tensor, Tensor]


class InputError(Exception):
    """The user's input cannot be used; the message is one sentence for the user."""


class Text:
    """A text as indices into its vocabulary; its last tenth is held out for validation.

    Args:
        characters: The whole text.
        context: Positions T of every sequence.
        origin: Where the text came from, for messages.

    Raises:
        InputError: The held-out tenth, or the rest, does not hold one sequence and its targets.
    """

    def __init__(self, characters: str, *, context: int, origin: str) -> None:
        code_points = torch.frombuffer(bytearray(characters, "utf-32-le"), dtype=torch.int32)
        points, indices = torch.unique(code_points, return_inverse=True)
        self.vocabulary = "".join(map(chr, points.tolist()))
        self.context = context
        self.validation_start = len(indices) - int(len(indices) * VALIDATION_FRACTION)
        self.training = indices[: self.validation_start]
        self.validation = indices[self.validation_start :]
        smallest = min(len(self.training), len(self.validation))
        if smallest < context + 1:
            raise InputError(
                f"{origin} has {len(indices)} characters, of which {len(self.validation)} are held "
                f"out for validation, but a context of {context} needs {context + 1} there: "
                f"give at least {10 * (context + 1)} characters or a smaller --context"
            )

    def training_batch(self, *, size: int, step: int, rank: int, seed: int) -> Batch:
        """Draws the batch of one step on one rank; the same arguments give the same batch.

        No state is kept, so a resumed run sees what an uninterrupted one would have seen.

        Returns:
            Tokens and the characters that follow them, both int64 (B, T).
        """
        generator = torch.Generator().manual_seed(
            random.Random(f"{seed} {rank} {step}").getrandbits(63)
        )
        last_start = len(self.training) - self.context - 1
        starts = torch.randint(last_start + 1, (size, 1), generator=generator)
        windows = self.training[starts + torch.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]

    def training_batches(
        self, steps: Iterable[int], *, size: int, rank: int, seed: int
    ) -> Iterator[Batch]:
        """Yields the batches of some steps."""
        for step in steps:
            yield self.training_batch(size=size, step=step, rank=rank, seed=seed)

    def validation_batches(
        self, *, most_sequences: int, rank: int, world_size: int
    ) -> Iterator[Batch]:
        """Yields one rank's share of the held-out text, in sequences that do not overlap.

        Args:
            most_sequences: Sequences of all ranks together, spread evenly when there are more.
        """
        available = (len(self.validation) - 1) // self.context
        chosen = torch.linspace(0, available - 1, min(available, most_sequences)).long()
        starts = chosen[rank::world_size, None] * self.context
        for some_starts in starts.split(VALIDATION_BATCH):
            windows = self.validation[some_starts + torch.arange(self.context + 1)]
            yield windows[:, :-1], windows[:, 1:]

    def encode(self, characters: str) -> list[int]:
        """Indices of characters that all occur in the text."""
        return [self.vocabulary.index(character) for character in characters]

    def decode(self, indices: list[int]) -> str:
        """The characters of indices."""
        return "".join(self.vocabulary[index] for index in indices)


def read_text(path: Path, *, context: int) -> Text:
    """Reads a UTF-8 file.

    Raises:
        InputError: The file is missing, unreadable, empty, not UTF-8, or too short for the context.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the text {path}: {error.strerror}") from error
    if not content:
        raise InputError(f"the text {path} is empty (0 bytes)")
    try:
        characters = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"the text {path} is not UTF-8: byte 0x{content[error.start]:02x} "
            f"at offset {error.start} of {len(content)} ({error.reason})"
        ) from error
    return Text(characters, context=context, origin=f"the text {path}")
