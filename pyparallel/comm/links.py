"""Connections between ranks on which the kernel notices a dead process or a silent host."""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress

_SEND_SECONDS = 1.0


def own_address() -> str:
    """This host's address as the job's other hosts reach it: the one towards MASTER_ADDR."""
    master = os.environ.get("MASTER_ADDR", "127.0.0.1")
    with suppress(OSError):
        for family, kind, _, _, place in socket.getaddrinfo(master, 9, type=socket.SOCK_DGRAM):
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.connect(place)  # sends nothing
                return str(probe.getsockname()[0])
    return "127.0.0.1"


def listen(address: str) -> socket.socket:
    """A listening socket on a free port of this host."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=8)


def connect(
    place: tuple[str, int], greeting: str, deadline: float, silence_seconds: float
) -> socket.socket:
    """Opens a link and says who this is; OSError if nobody is there."""
    link = socket.create_connection(place, max(0.1, deadline - time.monotonic()))
    try:
        _probe(link, silence_seconds)
        link.sendall(f"{greeting}\n".encode())
    except OSError:
        link.close()
        raise
    return link


def accept(
    listener: socket.socket, greeting: str, deadline: float, silence_seconds: float
) -> socket.socket:
    """The first link that gives the greeting; whoever else comes is turned away. TimeoutError."""
    while True:
        listener.settimeout(max(0.1, deadline - time.monotonic()))
        link, _ = listener.accept()
        with suppress(OSError, ValueError):
            _probe(link, silence_seconds)
            if secrets.compare_digest(_read_line(link), greeting):
                return link
        link.close()


def _probe(link: socket.socket, silence_seconds: float) -> None:
    """Makes the kernel ask the other kernel for signs of life, and give up after the silence."""
    interval = max(1, int(silence_seconds / 5))
    link.settimeout(_SEND_SECONDS)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(silence_seconds * 1000))


def _read_line(link: socket.socket) -> str:
    line = b""
    while not line.endswith(b"\n") and len(line) < 128:
        byte = link.recv(1)
        if not byte:
            break
        line += byte
    return line.decode("ascii").removesuffix("\n")
