"""Parts of a communicator: who belongs to which, and how each finds together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from pyparallel.comm.communicator import Communicator
from pyparallel.comm.rendezvous import Record, meet
from pyparallel.comm.solo import SoloCommunicator
from pyparallel.comm.torch_group import GroupCommunicator

if TYPE_CHECKING:
    from pyparallel.comm.shm import ShmCommunicator

_RECORD_BYTES = 512


def split_shared(
    parent: ShmCommunicator, color: int | None, key: int
) -> ShmCommunicator | SoloCommunicator | None:
    """See Communicator.split, for ranks that share memory.

    A rank that fails in here fails in the parent, too: nobody waits for it in vain.
    """
    try:
        ranks = _members(gather_records(parent, _entry(color, key)), parent.rank)
        if len(ranks) < 2:
            gather_records(parent, {})  # a part in the others' exchange
            return SoloCommunicator(torch.device("cpu")) if ranks else None

        def exchange(record: Record) -> Iterator[Record]:
            records = gather_records(parent, record)
            yield from (records[rank] for rank in ranks)

        part, _ = meet(
            exchange,
            rank=ranks.index(parent.rank),
            world_size=len(ranks),
            timeout_seconds=parent.timeout_seconds,
        )
    except Exception as error:
        parent.abort(f"split: {error}")
        raise
    assert part is not None  # the parent's ranks are on one host
    return part


def split_group(
    parent: GroupCommunicator, group: dist.ProcessGroup, color: int | None, key: int
) -> GroupCommunicator | SoloCommunicator | None:
    """See Communicator.split, for a group that torch.distributed knows."""
    ranks = _members(gather_records(parent, _entry(color, key)), parent.rank)
    if len(ranks) < 2:
        return SoloCommunicator(parent.device) if ranks else None
    members = [dist.get_global_rank(group, rank) for rank in ranks]
    ordered: dict[str, Any] = {} if members == sorted(members) else {"sort_ranks": False}
    part = dist.new_group(
        members, backend=dist.get_backend(group), use_local_synchronization=True, **ordered
    )
    return GroupCommunicator(part, parent.device, owned=True)


def family(communicator: Communicator) -> Iterator[Communicator]:
    """The communicator and the live parts that were split from it, and from these."""
    yield communicator
    for part in list(getattr(communicator, "parts", ())):
        yield from family(part)


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


def _entry(color: int | None, key: int) -> Record:
    for name, value in (("color", color), ("key", key)):
        if not isinstance(value, int) and not (name == "color" and value is None):
            raise TypeError(f"split: {name} is {value!r}, not an integer")
    return {"color": color, "key": key}


def _members(entries: list[dict[str, Any]], rank: int) -> list[int]:
    """The ranks of this rank's color by key, then by rank; none without a color."""
    color = entries[rank]["color"]
    if color is None:
        return []
    same = (other for other in range(len(entries)) if entries[other]["color"] == color)
    return sorted(same, key=lambda other: (entries[other]["key"], other))
