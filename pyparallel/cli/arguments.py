"""What command lines share: a parser that answers with one sentence, numbers, lists of tensors."""

import argparse
import re
from dataclasses import dataclass
from typing import NoReturn

import torch

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
ALL_DTYPES = DTYPES | {"int32": torch.int32, "int64": torch.int64}


def dtype_name(dtype: torch.dtype) -> str:
    """What the command line calls a dtype."""
    return next(name for name, known in ALL_DTYPES.items() if known == dtype)


class SentenceParser(argparse.ArgumentParser):
    """Like its base, but an error is one line on stderr, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """An option's value that must be an integer of at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, but is {number}")
    return number


@dataclass(frozen=True)
class TensorList:
    """Shapes of tensors, as in "4x[4096,4096]": four of 4096 by 4096; several with "+" between."""

    text: str

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """One shape per tensor."""
        made: list[tuple[int, ...]] = []
        for part in self.text.split("+"):
            found = re.fullmatch(r"([1-9]\d*)x\[(\d+(?:,\d+)*)\]", part)
            if not found:
                raise argparse.ArgumentTypeError(f"{part!r} is not like 4x[4096,4096]")
            made += [tuple(map(int, found[2].split(",")))] * int(found[1])
        return made

    def __str__(self) -> str:
        return self.text


def tensor_list(text: str) -> TensorList:
    """An option's value that must be a TensorList; spaces do not matter."""
    made = TensorList(text.replace(" ", ""))
    _ = made.shapes  # raises if they cannot be read
    return made


def num_bytes(text: str) -> int:
    """An option's value that must be a size of at least one byte: 1000, 8K, 25M or 1G."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if not found or int(found[1]) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 1000, 8K, 25M or 1G")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]
