"""The flight record of a communicator: who did what last and who waits for whom."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyparallel._native import core

Record = dict[str, Any]
DIRECTORY_VARIABLE = "PYPARALLEL_FLIGHT_DIR"


def record(native: core.ShmCommunicator, *, rank: int, world_size: int) -> Record:
    """What all ranks did last, as this rank sees it now.

    Returns:
        ``rank``, ``world_size``, ``taken_ns`` and ``waiting`` (who waits for whom, in words), and
        ``ranks``: for each its process, whether it left or failed, whom it ``waits`` for and its
        last 64 ``operations``. A wait shows up after 20 ms. Times are nanoseconds of
        time.monotonic_ns(), which the ranks of a host share.
    """
    return _assemble(native.flight_record(), native.who_waits(), rank, world_size)


def dump_on_failure(native: core.ShmCommunicator, *, rank: int, world_size: int) -> None:
    """Lets the first failed wait write the record to PYPARALLEL_FLIGHT_DIR, if that is set."""
    directory = os.environ.get(DIRECTORY_VARIABLE)
    if directory:
        native.set_on_failure(_writer(Path(directory), rank, world_size))


def write(path: Path, content: Record) -> None:
    """Writes a record as JSON; whoever reads the path sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(content, indent=1))
    draft.replace(path)


def _assemble(ranks: list[Record], waiting: str, rank: int, world_size: int) -> Record:
    return {
        "rank": rank,
        "world_size": world_size,
        "taken_ns": time.monotonic_ns(),
        "waiting": waiting,
        "ranks": ranks,
    }


def path_in(directory: Path, rank: int) -> Path:
    """A new file for the record of a failure."""
    return directory / f"flight-rank{rank}-process{os.getpid()}-{time.time_ns()}.json"


def write_failure(path: Path, content: Record, error: str) -> None:
    """Writes the record of a failure; that it cannot is said on stderr and is no second error."""
    try:
        write(path, {**content, "error": error})
    except OSError as failure:  # the communicator's error matters more
        os.write(2, f"pyparallel: cannot write the flight record: {failure}\n".encode())


# Holds nothing of the communicator: the core keeps it.
def _writer(
    directory: Path, rank: int, world_size: int
) -> Callable[[str, list[Record], str], None]:
    def write_first(error: str, ranks: list[Record], waiting: str) -> None:
        write_failure(path_in(directory, rank), _assemble(ranks, waiting, rank, world_size), error)

    return write_first
