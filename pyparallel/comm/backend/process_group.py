"""PyparallelProcessGroup: what torch.distributed gets for the backend name "pyparallel"."""

from __future__ import annotations

import atexit
from collections import deque
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from pyparallel._uncaught import UncaughtHook
from pyparallel.comm.backend.accelerator import nccl_group
from pyparallel.comm.backend.completer import Completer
from pyparallel.comm.backend.identity import Identity
from pyparallel.comm.backend.movements import Movements
from pyparallel.comm.backend.point_to_point import PointToPoint
from pyparallel.comm.backend.reductions import Reductions
from pyparallel.comm.backend.works import CollectiveWork
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.split import family

_TorchProcessGroup: Any = dist.ProcessGroup  # torch's picture of it has no methods to override


class PyparallelProcessGroup(Identity, Reductions, Movements, PointToPoint, _TorchProcessGroup):  # type: ignore[misc]
    """A process group of torch whose CPU tensors travel through our communicator.

    It is a subclass of ProcessGroup, not of Backend, which torch lets nobody derive from in Python.
    C++ callers, DistributedDataParallel's reducer for one, find the methods by their names.
    Tensors on CUDA go to an NCCL group, made with the first of them.

    Attributes:
        communicator: of this group's ranks.
    """

    def __init__(
        self,
        communicator: Communicator,
        store: Store,
        timeout: timedelta,
        global_ranks: Sequence[int],
        local_ranks: int,
    ) -> None:
        """Takes the communicator over: it is closed with the group.

        The peers are told of an uncaught exception of this process before it ends.

        Args:
            communicator: of the group's ranks.
            store: shared by them.
            timeout: of every wait, for groups made from this one.
            global_ranks: the members' ranks in the job; empty for the whole job.
            local_ranks: ranks on this host, of the whole job.
        """
        _TorchProcessGroup.__init__(self, communicator.rank, communicator.world_size)
        self.communicator = communicator
        self._store = store
        self._timeout = timeout
        self._global_ranks = list(global_ranks)
        self._local_ranks = local_ranks
        self._completer = Completer()
        self._coalesced: list[CollectiveWork] | None = None
        self._with_results_to_copy: deque[CollectiveWork] = deque()
        self._accelerator: Any = None
        self._splits = 0
        self._hook = UncaughtHook(self._fail)
        atexit.register(self.shutdown)

    def barrier(self, opts: Any = None, timeout: timedelta | None = None) -> Any:
        """Returns when all ranks have called it, on the device of `opts` if it names one."""
        if getattr(opts, "device_ids", None) and opts.device.type != "cpu":
            return self.device_group(opts.device).barrier(opts)
        call = self._call(opts, timeout)._replace(background=False)  # as barriers are
        return self._issued("barrier", [self.communicator.barrier()], [], None, call)

    def monitored_barrier(
        self, timeout: timedelta | None = None, wait_all_ranks: bool = False
    ) -> None:
        """A barrier with its own deadline; torch.distributed.monitored_barrier is for Gloo only."""
        self.barrier().wait(timeout)

    def device_group(self, device: torch.device) -> Any:
        """The NCCL group for CUDA tensors.

        Raises:
            ValueError: a device that this torch or this backend has no group for.
        """
        if self._accelerator is None:
            self._accelerator = nccl_group(
                device,
                PrefixStore("cuda", self._store),
                self.communicator,
                timeout=self._timeout,
                name=self._group_name,
                global_ranks=self._global_ranks,
            )
        return self._accelerator

    def split_group(
        self,
        new_ranks: Sequence[int],
        timeout: timedelta | None = None,
        opts: Any = None,
        group_name: str | None = None,
        group_desc: str | None = None,
        device_types: Any = None,
    ) -> PyparallelProcessGroup | None:
        """The group of some of this group's ranks; all call it, with the same list in a part."""
        rank = self.communicator.rank
        mine = rank in new_ranks
        order = list(new_ranks).index(rank) if mine else 0
        part = self.communicator.split(min(new_ranks) if mine else None, order)
        self._splits += 1
        if part is None:
            return None
        ranks = self._global_ranks or list(range(self.communicator.world_size))
        store = PrefixStore(f"split {self._splits} of {min(new_ranks)}", self._store)
        group = PyparallelProcessGroup(
            part, store, timeout or self._timeout, [ranks[r] for r in new_ranks], self._local_ranks
        )
        group.setGroupName(group_name or f"{self._group_name}:split:{self._splits}")
        group.setGroupDesc(group_desc or f"{self._group_desc}:split:{self._splits}")
        return group

    splitGroup = split_group  # noqa: N815

    def shutdown(self) -> None:
        """Leaves in good order; twice is harmless."""
        atexit.unregister(self.shutdown)
        self._hook.remove()
        self._completer.stop()
        self.communicator.close()
        if self._accelerator is not None:
            self._accelerator.shutdown()
            self._accelerator = None

    def abort(self) -> None:
        """Ends what is in flight: every rank that waits for this one gets PeerFailedError."""
        self._fail("torch.distributed aborted the process group")
        if self._accelerator is not None:
            self._accelerator.abort()

    def _fail(self, cause: str) -> None:
        for communicator in family(self.communicator):
            communicator.abort(cause)

    def _start_coalescing(self, device: torch.device) -> None:
        if device.type != "cpu":
            self.device_group(device)._start_coalescing(device)
            return
        if self._coalesced is not None:
            raise RuntimeError("coalescing has been started and not ended")
        self._coalesced = []

    def _end_coalescing(self, device: torch.device) -> Any:
        if device.type != "cpu":
            return self.device_group(device)._end_coalescing(device)
        works, self._coalesced = self._coalesced or [], None
        return CollectiveWork("coalesced operations", works, [])
