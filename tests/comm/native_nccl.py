"""In place of the native NCCL communicator: notes what it is asked, and fails on demand."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from pyparallel import _native
from pyparallel.comm import NcclCommunicator
from pyparallel.errors import CollectiveTimeoutError, PeerFailedError, PeerLostError

ID = bytes(range(128))
CPU = torch.device("cpu", 0)


class NativeWork:
    """Ends when it is told to."""

    started_ns = 1
    ended_ns = 2

    def __init__(self, owner: NativeCommunicator, description: str) -> None:
        self._owner = owner
        self.description = description
        self.completed = False

    @property
    def failed(self) -> bool:
        return self._owner.error is not None and not self.completed

    def wait(self, stream: int) -> None:
        if self._owner.error is not None:
            raise self._owner.error


class NativeCommunicator:
    """In place of _C.NcclCommunicator. Joining takes until `arrived`."""

    instances: ClassVar[list[NativeCommunicator]] = []
    doing_now = "no operation"

    def __init__(self, override: str, candidates: Sequence[str], *arguments: Any) -> None:
        (identity, self.rank, self.world_size, _, self.timeout_seconds, names) = arguments
        assert identity == ID
        self.names = list(names)
        self.calls: list[tuple[Any, ...]] = []
        self.works: list[NativeWork] = []
        self.error: Exception | None = None
        self.left: list[int] = []
        self.arrived = threading.Event()
        if os.environ.get("TEST_LANES_WAIT") is None:
            self.arrived.set()
        NativeCommunicator.instances.append(self)

    @staticmethod
    def create_id(override: str, candidates: Sequence[str]) -> bytes:
        return ID

    def join(self) -> None:
        if not self.arrived.wait(10):
            raise CollectiveTimeoutError("nobody joined")
        if self.error is not None:
            raise self.error

    def peer_failed(self, peer: int, operation: str, cause: str, lost: bool) -> None:
        if self.error is None:
            lost_error = PeerLostError(f"rank {peer} died", peer)
            failed = PeerFailedError(f"rank {peer} failed: {cause}", peer, operation, cause)
            self.error = lost_error if lost else failed
        self.arrived.set()

    def peer_left(self, peer: int) -> None:
        self.left.append(peer)

    def doing(self) -> str:
        return self.doing_now

    def finish(self) -> None:
        self.calls.append(("finish",))

    def close(self) -> None:
        self.calls.append(("close",))

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> NativeWork:
            if self.error is not None:
                raise self.error
            self.calls.append((name, *arguments))
            self.works.append(NativeWork(self, f"{name}()"))
            return self.works[-1]

        call.__name__ = name
        return call


def joined() -> NcclCommunicator:
    """In a rank: a communicator of all, whose native part does nothing."""
    _native.core.NcclCommunicator = NativeCommunicator  # type: ignore[misc]
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore("127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=False)
    return NcclCommunicator(
        dist.PrefixStore("nccl", store),
        rank=rank,
        world_size=world_size,
        device=CPU,
        timeout_seconds=10,
    )


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()
