"""Snapshots: a pool's blocks and recorded events in the schema of torch.cuda.memory._snapshot()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyparallel.memory._restricted_pickle import load_plain


def load_snapshot(path: str | Path) -> dict[str, Any]:
    """Reads a snapshot, pyparallel's or torch's; runs no code that the file may hold.

    Raises:
        ValueError: the file is no snapshot.
        FileNotFoundError: there is no such file.
    """
    try:
        data = load_plain(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if isinstance(data, list):  # torch's memory_snapshot(): segments alone
        data = {"segments": data, "device_traces": []}
    if not isinstance(data, dict) or not isinstance(data.get("segments"), list):
        raise ValueError(f"{path} is a pickle, but no snapshot: it has no list of segments")
    return data
