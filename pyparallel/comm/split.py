"""Parts of a communicator: who belongs to which, and the communicators that came out of it."""

from __future__ import annotations

from collections.abc import Iterator

from pyparallel.comm.communicator import Communicator


def family(communicator: Communicator) -> Iterator[Communicator]:
    """The communicator and the live parts that were split from it, and from these."""
    yield communicator
    for part in list(getattr(communicator, "parts", ())):
        yield from family(part)
