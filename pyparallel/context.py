"""init(): which rank this process is, on which device, and how it talks to the others."""

from __future__ import annotations

import atexit
import os
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from pyparallel import _uncaught
from pyparallel._uncaught import UncaughtHook
from pyparallel.comm import (
    Communicator,
    GroupCommunicator,
    NcclCommunicator,
    SoloCommunicator,
)
from pyparallel.comm.backend import PyparallelProcessGroup
from pyparallel.comm.of_group import timeout_of
from pyparallel.comm.rendezvous import connect, connect_group, part_of
from pyparallel.comm.split import family
from pyparallel.monitor import SPANS, SpanRing


@dataclass(frozen=True)
class Context:
    """This process's place in the job; as a context manager, for as long as its block runs.

    When the process ends with an uncaught exception, the peers are told before it does: their
    waits end with PeerFailedError.

    Attributes:
        rank: 0 to world_size - 1.
        world_size: number of processes.
        local_rank: rank on this host.
        device: where this rank computes.
        communicator: collectives between all ranks, for tensors on `device`.
        spans: where the time goes (see pyparallel.monitor).
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    communicator: Communicator
    spans: SpanRing = field(default=SPANS, repr=False)
    _lender: dist.ProcessGroup | None = field(default=None, repr=False)
    _hook: UncaughtHook = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hook", UncaughtHook(self._abort))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Aborts if the block raised (or exits with a status that says so), then closes."""
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            with suppress(Exception):  # torch's groups may not know how: the block's error matters
                self._abort(_uncaught.describe(error))
        self.close()

    def _abort(self, cause: str) -> None:
        for communicator in family(self.communicator):
            communicator.abort(cause)

    def close(self) -> None:
        """Leaves the job in good order. Called at exit; calling it twice is harmless.

        The communicator of a "pyparallel" process group stays: the group closes it.
        """
        global _default
        atexit.unregister(self.close)  # or it would keep what is closed
        self._hook.remove()
        if self._lender is None:
            self.communicator.close()
        if _default is self:
            _default = None


_default: Context | None = None


def init(
    *, device: torch.device | str | None = None, timeout_seconds: float | None = None
) -> Context:
    """Joins the job that torchrun (or ``python -m pyparallel run``) started; returns the context.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torch.distributed does; a
    process without them is a world of one. In a job whose default process group exists already,
    that group is joined. Synchronises all ranks. A second call returns the same context.

    Args:
        device: default: CUDA device `local_rank` if there is one, else the CPU.
        timeout_seconds: deadline of every wait for another rank; default PYPARALLEL_TIMEOUT or 600.

    Raises:
        ValueError: an incomplete environment, or ranks with different world sizes.
        CollectiveTimeoutError: a rank did not come.
    """
    global _default
    lender = None if _default is None else _default._lender
    if _default is None or (lender is not None and lender is not dist.group.WORLD):
        if dist.is_available() and dist.is_initialized():
            _default = _join_group(dist.group.WORLD, device, timeout_seconds)
        else:
            _default = _join_environment(device, timeout_seconds)
        atexit.register(_default.close)
    return _default


def current() -> Context | None:
    """The context that init() made, if it has been called."""
    return _default


_group_contexts: dict[dist.ProcessGroup, Context] = {}


def context_of(group: dist.ProcessGroup | None) -> Context:
    """The context of a process group, or the default one: init()'s, or that of the torch job.

    The first call for a group is collective over its ranks.
    """
    if group is None:
        return init()
    if group not in _group_contexts:
        context = _join_group(group, None, None)
        atexit.register(context.close)
        _group_contexts[group] = context
    return _group_contexts[group]


def _device(device: torch.device | str | None, local_rank: int) -> torch.device:
    if device is not None:
        chosen = torch.device(device)
    elif torch.cuda.is_available():
        chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    else:
        chosen = torch.device("cpu")
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def _integer(name: str) -> int:
    value = os.environ.get(name)
    if value is None:
        raise ValueError(
            f"the environment variable {name} is missing; start the script with "
            "`python -m pyparallel run` or torchrun"
        )
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"the environment variable {name} is {value!r}, not a number") from None


def _join_environment(device: torch.device | str | None, timeout_seconds: float | None) -> Context:
    timeout = timeout_of(timeout_seconds)
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        chosen = _device(device, 0)
        return Context(0, 1, 0, chosen, SoloCommunicator(chosen))
    rank, world_size = _integer("RANK"), _integer("WORLD_SIZE")
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK is {rank}, which is not in a world of WORLD_SIZE {world_size}")
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    chosen = _device(device, local_rank)
    if world_size == 1:
        return Context(0, 1, local_rank, chosen, SoloCommunicator(chosen))
    if chosen.type == "cuda":
        return Context(
            rank, world_size, local_rank, chosen, _over_nccl(rank, world_size, chosen, timeout)
        )
    store, _, _ = next(iter(rendezvous("env://")))
    communicator = connect(
        part_of(store, "job", rank),
        rank=rank,
        world_size=world_size,
        timeout_seconds=timeout,
    )
    return Context(rank, world_size, local_rank, chosen, communicator)


def _join_group(
    group: dist.ProcessGroup | None,
    device: torch.device | str | None,
    timeout_seconds: float | None,
) -> Context:
    assert group is not None
    rank, world_size = group.rank(), group.size()
    local_rank = int(os.environ.get("LOCAL_RANK", dist.get_rank()))
    if device is None and dist.get_backend(group) == "gloo":
        device = "cpu"
    chosen = _device(device, local_rank)
    communicator: Communicator | None = None
    if isinstance(group, PyparallelProcessGroup) and chosen.type == "cpu":
        communicator = group.communicator
        return Context(rank, world_size, local_rank, chosen, communicator, _lender=group)
    if world_size == 1:
        communicator = SoloCommunicator(chosen)
    elif chosen.type == "cpu":
        communicator = connect_group(group, timeout_of(timeout_seconds))
    if communicator is None:
        communicator = GroupCommunicator(group, chosen)
    return Context(rank, world_size, local_rank, chosen, communicator)


def _over_nccl(rank: int, world_size: int, device: torch.device, timeout: float) -> Communicator:
    """Our NCCL communicator, or, with a warning, torch's group if this build has none."""
    if not NcclCommunicator.is_built():
        warnings.warn(
            "this build of pyparallel has no CUDA (see pyparallel.features()): operations go "
            "through torch's NCCL group; build it with nvcc",
            stacklevel=4,
        )
        return _own_group("nccl", device)
    store, _, _ = next(iter(rendezvous("env://")))
    return NcclCommunicator(
        part_of(store, "nccl", rank),
        rank=rank,
        world_size=world_size,
        device=device,
        timeout_seconds=timeout,
    )


def _own_group(backend: str, device: torch.device) -> GroupCommunicator:
    dist.init_process_group(backend, device_id=device if device.type == "cuda" else None)
    assert dist.group.WORLD is not None
    return GroupCommunicator(dist.group.WORLD, device, owned=True)
