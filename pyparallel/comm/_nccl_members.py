"""Members: how the ranks of an NCCL communicator meet, and how a failure reaches all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch
from torch._C._distributed_c10d import PrefixStore, Store

from pyparallel._native import core
from pyparallel.comm._flight_recorder import FlightRecorder
from pyparallel.comm._nccl_library import libraries_beside_torch, named_library
from pyparallel.comm.watch import Failure, FailureWatch
from pyparallel.errors import (
    CollectiveTimeoutError,
    CudaError,
    NcclError,
    PeerFailedError,
    PeerLostError,
)


class Members:
    """The ranks, the store where they meet, and every native communicator between some of them.

    Attributes:
        flights: what the ranks did last.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        world_size: int,
        device: torch.device,
        timeout_seconds: float,
        native: core.NcclCommunicator | None = None,
    ) -> None:
        """Begins to watch the other ranks; collective.

        Args:
            store: of this communicator alone.
            rank: of this process.
            world_size: number of ranks.
            device: of this rank.
            timeout_seconds: deadline of joining and of every operation.
            native: a communicator of all ranks that exists already.
        """
        if not hasattr(core, "NcclCommunicator"):
            raise NcclError(
                "this build of pyparallel has no CUDA and therefore no NCCL (see "
                "pyparallel.features()): build it with nvcc",
                -1,
            )
        self.store = store
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        # Each with the ranks that it joins, in its own order.
        self._natives: list[tuple[core.NcclCommunicator, list[int]]] = []
        self._at_end: list[Callable[[Exception], None]] = []
        self._failure: Failure | None = None
        self._left: set[int] = set()
        if native is not None:
            self._natives.append((native, list(range(world_size))))
        self.flights = FlightRecorder(PrefixStore("flight", store), rank, world_size)
        self._watch = FailureWatch(
            PrefixStore("watch", store),
            rank,
            world_size,
            self._on_failure,
            on_left=self._on_left,
            on_asked=self.flights.asked,
            timeout_seconds=timeout_seconds,
        )
        self.flights.begin(self._watch)

    # ---- meeting ----

    def join(self, store: Store, rank: int, world_size: int) -> core.NcclCommunicator:
        """The communicator of all ranks; closes everything if there is none."""
        try:
            return self._join(store, rank, world_size, list(range(world_size)))
        except Exception as error:
            self.tell(error)
            self.close()
            raise

    def join_lane(self, source: int, destination: int) -> core.NcclCommunicator:
        """The communicator that carries messages from one rank to another; both call it."""
        store = PrefixStore(f"lane {source} to {destination}", self.store)
        return self._join(store, int(self.rank == destination), 2, [source, destination])

    def _join(
        self, store: Store, rank: int, world_size: int, ranks: list[int]
    ) -> core.NcclCommunicator:
        named, candidates = named_library(), libraries_beside_torch()
        if rank == 0:
            identity = core.NcclCommunicator.create_id(named, candidates)
            store.set("id", identity.hex())
        else:
            identity = bytes.fromhex(self._await(store, "id", ranks[0]).decode())
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        native = core.NcclCommunicator(
            named, candidates, identity, rank, world_size, index, self.timeout_seconds, ranks
        )
        with self._lock:
            self._natives.append((native, ranks))
            failure, left = self._failure, set(self._left)
        if failure is not None:
            native.peer_failed(failure.rank, failure.operation, failure.cause, failure.lost)
        native.join()
        for other in left:
            _tell_left(native, ranks, other)
        return native

    def _await(self, store: Store, key: str, rank: int) -> bytes:
        """Asks again and again: waiting in the store would keep this process's others out of it."""
        deadline, pause = time.monotonic() + self.timeout_seconds, 0.0005
        while not store.check([key]):
            if self._failure is not None:
                raise self._failure.error(f"rank {self.rank} waited for it to join")
            if self._watch.closed:
                raise ValueError("this communicator is closed")
            if time.monotonic() > deadline:
                raise CollectiveTimeoutError(
                    f"rank {self.rank} waited {self.timeout_seconds:g} s for rank {rank} to join"
                )
            time.sleep(pause)
            pause = min(0.02, pause * 2)
        return bytes(store.get(key))

    # ---- failing ----

    def tell(self, error: Exception) -> None:
        """Tells the others of an error that has ended this rank's communicators.

        That of a deadline learns before, within about 1 s, who waits for whom.
        """
        known = isinstance(error, (PeerLostError, PeerFailedError))
        if not known and not isinstance(error, (NcclError, CudaError, CollectiveTimeoutError)):
            return
        if isinstance(error, CollectiveTimeoutError):
            self.flights.explain(error)
        self.flights.failed(error)
        if known:
            return
        self._watch.fail("", str(error))

    def overdue(self, error: CollectiveTimeoutError) -> None:
        """A message was never issued, which ends nothing else: says who waits for whom."""
        self.flights.explain(error)
        self.flights.failed(error)

    def fail(self, operation: str, cause: str) -> None:
        """This rank has failed: tells the others and ends everything here."""
        operation = "" if operation == "no operation" else operation
        self._watch.fail(operation, cause)
        self._on_failure(Failure(self.rank, operation, cause, lost=False))

    def on_end(self, function: Callable[[Exception], None]) -> None:
        """Called with the error when a rank fails."""
        self._at_end.append(function)

    def close(self) -> None:
        """Leaves the watch in good order and frees NCCL's memory."""
        self._watch.close()
        with self._lock:
            natives, self._natives = self._natives, []
        for native, _ in reversed(natives):
            native.close()

    def _on_failure(self, failure: Failure) -> None:
        with self._lock:
            self._failure = failure
            natives = list(self._natives)
        for native, _ in natives:
            native.peer_failed(failure.rank, failure.operation, failure.cause, failure.lost)
        error = failure.error(f"rank {self.rank} was waiting for messages")
        for function in list(self._at_end):
            function(error)
        self.flights.failed(error)

    def _on_left(self, rank: int) -> None:
        with self._lock:
            self._left.add(rank)
            self.flights.left.add(rank)
            natives = list(self._natives)
        for native, ranks in natives:
            _tell_left(native, ranks, rank)


def _tell_left(native: core.NcclCommunicator, ranks: list[int], rank: int) -> None:
    if rank in ranks:
        native.peer_left(ranks.index(rank))
