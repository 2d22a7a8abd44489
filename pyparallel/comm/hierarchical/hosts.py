"""Which rank is on which host, and under which address the other hosts reach this one."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pyparallel.comm import links

_GET_INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR of netdevice(7)


@dataclass(frozen=True)
class Hosts:
    """The ranks, ordered by host; hosts are ordered by their first rank.

    Attributes:
        ranks: of each host, ascending.
        host_of: index of each rank's host.
        local_of: each rank's place among the ranks of its host.
        names: of each host.
        processes: process id of each rank.
    """

    ranks: tuple[tuple[int, ...], ...]
    host_of: tuple[int, ...]
    local_of: tuple[int, ...]
    names: tuple[str, ...]
    processes: tuple[int, ...]

    @staticmethod
    def of(identities: Sequence[str], processes: Sequence[int]) -> Hosts:
        """From every rank's host identity, the part before the first slash being its name."""
        ranks: dict[str, list[int]] = {}
        for rank, identity in enumerate(identities):
            ranks.setdefault(identity, []).append(rank)
        places = {
            rank: (host, local)
            for host, members in enumerate(ranks.values())
            for local, rank in enumerate(members)
        }
        return Hosts(
            ranks=tuple(tuple(members) for members in ranks.values()),
            host_of=tuple(places[rank][0] for rank in range(len(places))),
            local_of=tuple(places[rank][1] for rank in range(len(places))),
            names=tuple(identity.split("/")[0] for identity in ranks),
            processes=tuple(processes),
        )

    @property
    def equal(self) -> bool:
        """Whether all hosts hold the same number of ranks."""
        return len({len(members) for members in self.ranks}) == 1

    @property
    def leaders(self) -> tuple[int, ...]:
        """The first rank of each host."""
        return tuple(members[0] for members in self.ranks)

    def representatives(self, root: int) -> tuple[int, ...]:
        """A rank of each host: the root on its own, elsewhere one in its place, if there is one."""
        local = self.local_of[root]
        return tuple(members[min(local, len(members) - 1)] for members in self.ranks)

    def describe(self, rank: int) -> str:
        """The rank as errors name it."""
        return f"rank {rank} (process {self.processes[rank]} on host {self.name(rank)})"

    def name(self, rank: int) -> str:
        """The name of a rank's host."""
        return self.names[self.host_of[rank]]


def own_address() -> str:
    """The address of this host that other hosts of the job can reach.

    That of the interface GLOO_SOCKET_IFNAME, if it is set, as Gloo takes it; otherwise the one from
    which packets leave for MASTER_ADDR. On the host that calls itself by a loopback name, as many
    do in /etc/hosts, it is the one from which packets leave for the world, if there is one.
    """
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    if interface:
        return _interface_address(interface.split(",")[0])
    address = links.own_address()
    if address.startswith("127."):
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unsent:
            unsent.connect(("192.0.2.1", 9))  # kept for documentation by RFC 5737
            return str(unsent.getsockname()[0])
    return address


def _interface_address(interface: str) -> str:
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket.fileno(), _GET_INTERFACE_ADDRESS, request)
        except OSError as error:
            raise ValueError(
                f"GLOO_SOCKET_IFNAME is {interface!r}, which has no IPv4 address: {error}"
            ) from None
    return socket.inet_ntoa(answer[20:24])
