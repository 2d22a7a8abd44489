"""Who belongs to which part of a communicator: records of all ranks, and the ranks of a color."""

from __future__ import annotations

import json
from typing import Any

import torch

from pyparallel.comm.communicator import Communicator

Record = dict[str, Any]
_RECORD_BYTES = 512


def gather_records(communicator: Communicator, record: Record) -> list[Record]:
    """Every rank's record, in rank order; collective.

    Raises:
        ValueError: a record of more than 512 bytes of JSON.
    """
    encoded = json.dumps(record).encode()
    if len(encoded) > _RECORD_BYTES:
        raise ValueError(f"a record of {len(encoded)} bytes is longer than {_RECORD_BYTES}")
    device = getattr(communicator, "device", torch.device("cpu"))
    own = torch.frombuffer(bytearray(encoded.ljust(_RECORD_BYTES)), dtype=torch.uint8).to(device)
    everyone = own.new_empty(communicator.world_size, _RECORD_BYTES)
    communicator.all_gather(everyone, own, background=False).wait()
    return [json.loads(row.numpy().tobytes()) for row in everyone.cpu()]


def ranks_of_color(communicator: Communicator, color: int | None, key: int) -> list[int]:
    """The ranks that gave this rank's color, by key, then by rank; none without a color.

    Collective over the communicator's ranks.

    Raises:
        TypeError: a color or key that is no integer.
    """
    return _members(gather_records(communicator, _entry(color, key)), communicator.rank)


def _entry(color: int | None, key: int) -> Record:
    for name, value in (("color", color), ("key", key)):
        if not isinstance(value, int) and not (name == "color" and value is None):
            raise TypeError(f"split: {name} is {value!r}, not an integer")
    return {"color": color, "key": key}


def _members(entries: list[Record], rank: int) -> list[int]:
    """The ranks of this rank's color by key, then by rank; none without a color."""
    color = entries[rank]["color"]
    if color is None:
        return []
    same = (other for other in range(len(entries)) if entries[other]["color"] == color)
    return sorted(same, key=lambda other: (entries[other]["key"], other))
