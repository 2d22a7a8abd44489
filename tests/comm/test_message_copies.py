"""A message is copied once where either side lies in shared memory: no buffer comes between."""

from __future__ import annotations

import os
from contextlib import suppress

import torch

import pyparallel
from ranks import run_ranks


def segments() -> int:
    """Shared segments that this process holds open, its own and its peers'."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found += os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:pyparallel")
    return found


def buffers_between(sender_shares: bool, receiver_shares: bool) -> int:
    """How many segments more this rank holds open after a message of 1 MiB from rank 0 to 1."""
    c = pyparallel.init().communicator
    shares = sender_shares if c.rank == 0 else receiver_shares
    tensor = c.empty(1 << 18) if shares else torch.empty(1 << 18)
    tensor.fill_(c.rank + 1)
    c.barrier().wait()
    before = segments()
    (c.send(tensor, 1) if c.rank == 0 else c.recv(tensor, 0)).wait()
    assert bool((tensor == 1).all())
    c.barrier().wait()
    return segments() - before


def test_a_message_is_copied_once_where_a_side_is_shared() -> None:
    assert run_ranks(2, buffers_between, True, False) == [0, 1]  # the receiver opens the tensor
    assert run_ranks(2, buffers_between, False, True) == [1, 0]  # the sender opens the tensor
    assert run_ranks(2, buffers_between, False, False) == [1, 1]  # a buffer of the receiver's
