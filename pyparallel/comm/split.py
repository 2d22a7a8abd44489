"""Parts of a communicator: who belongs to which, and how each finds together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from pyparallel.comm._colors import Record, gather_records, ranks_of_color
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.rendezvous import meet
from pyparallel.comm.solo import SoloCommunicator
from pyparallel.comm.torch_group import GroupCommunicator

if TYPE_CHECKING:
    from pyparallel.comm.shm import ShmCommunicator


def split_shared(
    parent: ShmCommunicator, color: int | None, key: int
) -> ShmCommunicator | SoloCommunicator | None:
    """See Communicator.split, for ranks that share memory.

    A rank that fails in here fails in the parent, too: nobody waits for it in vain.
    """
    try:
        ranks = ranks_of_color(parent, color, key)
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
    ranks = ranks_of_color(parent, color, key)
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
