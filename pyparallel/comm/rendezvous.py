"""How ranks find each other: one exchange of records, then a shared control segment."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store

from pyparallel._native import core
from pyparallel.comm import hierarchical
from pyparallel.comm._colors import Record, ranks_of_color
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.shm import ShmCommunicator
from pyparallel.comm.solo import SoloCommunicator
from pyparallel.errors import CollectiveTimeoutError, PyparallelError

Exchange = Callable[[Record], Iterator[Record]]
"""Publishes this rank's record and yields all ranks' records in rank order."""
Check = Callable[[int], None]
"""Raises if the rank will not come any more."""
_CHECK_SECONDS = 0.3


def exchange_over_store(
    store: Store,
    *,
    rank: int,
    world_size: int,
    timeout_seconds: float,
    check: Check | None = None,
) -> Exchange:
    """Records travel through a torch store; a rank that does not come is named."""

    def exchange(record: Record) -> Iterator[Record]:
        store.set(f"rank{rank}", json.dumps(record))
        for other in range(world_size):
            key = f"rank{other}"
            try:
                _wait(store, key, timeout_seconds, check and partial(check, other))
            except PyparallelError:
                raise
            except RuntimeError as error:
                raise CollectiveTimeoutError(
                    f"rank {rank} waited {timeout_seconds:g} s in init() for rank {other}, "
                    f"which did not come ({str(error).splitlines()[0]})"
                ) from None
            yield json.loads(store.get(key))

    return exchange


def _wait(store: Store, key: str, seconds: float, check: Callable[[], None] | None) -> None:
    """Until the key is there; the store knows nothing of those who will not set it any more."""
    pause, now = 0.0002, time.monotonic()
    deadline, checked = now + seconds, now
    while check is not None and now < deadline and not store.check([key]):
        if now - checked > _CHECK_SECONDS:
            check()
            checked = now
        time.sleep(pause)
        pause, now = min(2 * pause, 0.01), time.monotonic()
    store.wait([key], timedelta(seconds=max(deadline - now, 0.001)))


def exchange_over_group(group: dist.ProcessGroup) -> Exchange:
    """Records travel through a torch ProcessGroup of any backend."""

    def exchange(record: Record) -> Iterator[Record]:
        records: list[Any] = [None] * group.size()
        dist.all_gather_object(records, record, group=group)
        yield from records

    return exchange


def host_identity() -> str:
    """Equal for two processes exactly if they can see each other's /proc entries.

    PYPARALLEL_HOST stands for the host's name: ranks with different values are on different hosts.
    """
    name = os.environ.get("PYPARALLEL_HOST") or socket.gethostname()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{name}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def connect(
    store: Store,
    *,
    rank: int,
    world_size: int,
    timeout_seconds: float,
    exchange: Exchange | None = None,
    check: Check | None = None,
) -> Communicator:
    """Joins ranks that share a store, for tensors on the CPU.

    Ranks of one host meet in shared memory; ranks of several hosts in a communicator that uses it
    inside each host and Gloo between them. Collective over the ranks; synchronises them.

    Args:
        store: where only these ranks meet, and only for this call (a PrefixStore, for instance). It
            is used again when the communicator is split.
        rank: of this process.
        world_size: number of ranks.
        timeout_seconds: deadline of this call and of every later operation.
        exchange: another way for the ranks' records; default: through the store.
        check: asked now and then about a rank whose record has not come through the store.
    """
    if world_size == 1:
        return SoloCommunicator(torch.device("cpu"))
    if exchange is None:
        exchange = exchange_over_store(
            store, rank=rank, world_size=world_size, timeout_seconds=timeout_seconds, check=check
        )
    communicator, records = meet(
        exchange, rank=rank, world_size=world_size, timeout_seconds=timeout_seconds
    )
    if communicator is not None:
        return communicator
    hosts = hierarchical.Hosts.of(
        [record["host"] for record in records], [record["process"] for record in records]
    )
    return hierarchical.join(
        store,
        hosts,
        rank,
        lambda: _meet_on_host(store, hosts, rank, timeout_seconds),
        _splitter(store, timeout_seconds),
        timeout_seconds=timeout_seconds,
    )


def connect_group(group: dist.ProcessGroup, timeout_seconds: float) -> Communicator | None:
    """connect() for the ranks of a torch group; None if they are on several hosts without a store.

    Args:
        group: of any backend; at least two ranks.
        timeout_seconds: see connect().
    """
    rank, world_size = group.rank(), group.size()
    exchange = exchange_over_group(group)
    store = _get_default_store()
    if store is None:  # MPI
        return meet(exchange, rank=rank, world_size=world_size, timeout_seconds=timeout_seconds)[0]
    return connect(
        part_of(store, group.group_name, rank),
        rank=rank,
        world_size=world_size,
        timeout_seconds=timeout_seconds,
        exchange=exchange,
    )


def part_of(store: Store, name: str, rank: int) -> Store:
    """A part of the store for one connect(): stores keep what earlier ones of a job put there."""
    generation = store.add(f"pyparallel/{name}/joined by {rank}", 1)
    return PrefixStore(f"pyparallel/{name}/{generation}", store)


def _meet_on_host(
    store: Store, hosts: hierarchical.Hosts, rank: int, timeout_seconds: float
) -> Communicator:
    host, local = hosts.host_of[rank], hosts.local_of[rank]
    return connect(
        PrefixStore(f"host{host}", store),
        rank=local,
        world_size=len(hosts.ranks[host]),
        timeout_seconds=timeout_seconds,
    )


def _splitter(store: Store, timeout_seconds: float) -> hierarchical.Split:
    """Splits a communicator whose ranks share a store."""
    numbers = itertools.count()  # the same on all ranks: they split in the same order

    def split(communicator: Communicator, color: int | None, key: int) -> Communicator | None:
        members = ranks_of_color(communicator, color, key)
        number = next(numbers)
        if not members:
            return None
        return connect(
            PrefixStore(f"split{number}/{color}", store),
            rank=members.index(communicator.rank),
            world_size=len(members),
            timeout_seconds=timeout_seconds,
        )

    return split


def meet(
    exchange: Exchange, *, rank: int, world_size: int, timeout_seconds: float
) -> tuple[ShmCommunicator | None, list[Record]]:
    """Joins the other ranks in shared memory if all are on this host.

    Args:
        exchange: the way the ranks' records travel.
        rank: of this process.
        world_size: number of ranks.
        timeout_seconds: deadline of this call and of every later collective.

    Returns:
        The communicator, or None if the ranks are on several hosts; and the ranks' records.

    Raises:
        ValueError: ranks that were started with different world sizes.
        OutOfMemoryError: no room for the control segment.
    """
    control = core.ShmCommunicator.create_control(world_size) if rank == 0 else None
    record: Record = {"world_size": world_size, "host": host_identity(), "process": os.getpid()}
    record["control"] = control.fd if control else -1
    records: list[Record] = []
    for other in exchange(record):
        if other["world_size"] != world_size:
            raise ValueError(
                f"rank {rank} was started with a world size of {world_size}, "
                f"rank {len(records)} with {other['world_size']}"
            )
        records.append(other)
    if len({other["host"] for other in records}) > 1:
        return None, records
    if control is None:
        control = core.Segment.open(records[0]["process"], records[0]["control"])
    processes = [other["process"] for other in records]
    native = core.ShmCommunicator(control, rank, processes, timeout_seconds)
    native.join()
    return ShmCommunicator(native, rank=rank, world_size=world_size), records
