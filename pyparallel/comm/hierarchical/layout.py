"""Layout: what the stages of an operation work with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pyparallel.comm.communicator import Communicator, Work
from pyparallel.comm.hierarchical.between import Announcement, Between
from pyparallel.comm.hierarchical.hosts import Hosts
from pyparallel.errors import PeerFailedError, PeerLostError, PyparallelError


@dataclass(frozen=True)
class Layout:
    """A rank's view of the job.

    Attributes:
        hosts: which rank is where.
        rank: of this process.
        own: the communicator of this host's ranks.
        between: the way to the others.
        host: index of this rank's host.
        local: this rank's place on it.
    """

    hosts: Hosts
    rank: int
    own: Communicator
    between: Between
    host: int = field(init=False)
    local: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", self.hosts.host_of[self.rank])
        object.__setattr__(self, "local", self.hosts.local_of[self.rank])

    @property
    def rail(self) -> tuple[int, ...] | None:
        """The ranks, one of each host, that this one exchanges its share of an operation with.

        Those in the same place on their hosts, or only the first ones if hosts are of unequal size.
        """
        if self.hosts.equal:
            return tuple(members[self.local] for members in self.hosts.ranks)
        return self.hosts.leaders if self.local == 0 else None

    def announce(self, what: str, arguments: str) -> Announcement:
        """Tells the rail what this rank calls. Its host's other ranks are checked inside."""
        call = f"{what}({arguments})"
        others = [rank for rank in self.rail or () if rank != self.rank]
        return self.between.announce(what, dict.fromkeys(others, (call, call)))

    def inside(self, call: Callable[[Communicator], Work]) -> None:
        """Runs an operation of this host's ranks; errors name them by their rank in the job."""
        try:
            call(self.own).wait()
        except PyparallelError as error:
            raise in_the_job(error, self.hosts, self.rank) from None


def in_the_job(error: PyparallelError, hosts: Hosts, rank: int) -> PyparallelError:
    """An error of the communicator of this rank's host, with the ranks' numbers in the job."""
    ranks = hosts.ranks[hosts.host_of[rank]]

    def number(match: re.Match[str]) -> str:
        return f"rank {ranks[int(match[1])]}"

    renamed = error.__class__.__new__(error.__class__)
    renamed.__dict__.update(error.__dict__)
    # The cause is somebody's own words, with whatever numbers.
    cause = error.cause if isinstance(error, PeerFailedError) and error.cause else "\n"
    own = [re.sub(r"\brank (\d+)\b", number, text) for text in str(error).split(cause)]
    renamed.args = (cause.join(own),)
    if isinstance(error, PeerLostError | PeerFailedError):
        renamed.__dict__["rank"] = ranks[error.rank]
    return renamed
