"""connect_mesh(): connections between all ranks, made anew where one breaks while it is made.

Gloo gives up a whole mesh when one connection is closed under it in the making, which happens on
busy machines. Only one rank sees that; the others hold a mesh with a hole. So every rank tells how
it went, and all begin again if anyone failed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from torch._C._distributed_c10d import PrefixStore, Store

Mesh = TypeVar("Mesh")
_ATTEMPTS = 3
_LONGEST_PAUSE = 0.02  # seconds between two looks into the store


def connect_mesh(
    make: Callable[[Store], Mesh],
    store: Store,
    *,
    rank: int,
    world_size: int,
    timeout_seconds: float,
    stopped: Callable[[], bool],
) -> Mesh:
    """What `make` returns once it has succeeded on all ranks in the same attempt; collective.

    Args:
        make: connects this rank with all others, which it meets in the store; raises RuntimeError.
        store: where only these ranks meet, and only for this call.
        rank: of this process.
        world_size: number of ranks.
        timeout_seconds: deadline of the whole.
        stopped: asked now and then while others are waited for: whether to give up.

    Raises:
        RuntimeError: the last attempt failed here or elsewhere, with what was said there; or it
            took too long, or was stopped.
    """
    deadline = time.monotonic() + timeout_seconds
    said: list[str] = []
    for attempt in range(_ATTEMPTS):
        part = PrefixStore(str(attempt), store)
        mesh: Mesh | None = None
        failure = ""
        try:
            mesh = make(PrefixStore("mesh", part))
        except RuntimeError as error:
            failure = str(error).splitlines()[0]
        part.set(f"rank{rank}", failure)
        if failure and time.monotonic() > deadline:
            raise RuntimeError(failure)
        said = [_await(part, other, deadline, stopped) for other in range(world_size)]
        if mesh is not None and not any(said):
            return mesh
    raise RuntimeError(next(text for text in said if text))


def _await(store: Store, rank: int, deadline: float, stopped: Callable[[], bool]) -> str:
    """Asks again and again: waiting in the store would keep this process's others out of it."""
    pause = 0.0005
    while not store.check([f"rank{rank}"]):
        if stopped():
            raise RuntimeError("the communicator is closed")
        if time.monotonic() > deadline:
            raise RuntimeError(f"rank {rank} did not come")
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 2 * pause)
    return store.get(f"rank{rank}").decode()
