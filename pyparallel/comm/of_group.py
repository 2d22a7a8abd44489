"""The communicator of a torch ProcessGroup or of a dimension of a DeviceMesh."""

from __future__ import annotations

import os
import warnings
from typing import cast
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from pyparallel.comm.communicator import Communicator
from pyparallel.comm.rendezvous import connect_group
from pyparallel.comm.solo import SoloCommunicator
from pyparallel.comm.torch_group import GroupCommunicator

DEFAULT_TIMEOUT_SECONDS = 600.0
_LONGEST_SECONDS = 1e9  # 31 years; as nanoseconds far from what 64 bits hold

_communicators: WeakKeyDictionary[dist.ProcessGroup, dict[torch.device, Communicator]] = (
    WeakKeyDictionary()
)


def of_group(
    group: dist.ProcessGroup,
    *,
    device: torch.device | str = "cpu",
    timeout_seconds: float | None = None,
) -> Communicator:
    """The communicator between a group's ranks, for tensors on `device`.

    The first call for a group and device is collective over its ranks; later ones return the same
    communicator. CPU ranks of a host share memory; those of several hosts speak over Gloo.

    Args:
        group: of any backend. One of ours knows its communicator itself.
        device: of all tensors.
        timeout_seconds: of every wait; default PYPARALLEL_TIMEOUT or 600.
    """
    device = torch.device(device)
    known = _communicators.setdefault(group, {})
    if device not in known:
        known[device] = _join(group, device, timeout_seconds)
    return known[device]


def of_mesh(
    mesh: DeviceMesh, dim: int | str | None = None, *, timeout_seconds: float | None = None
) -> Communicator:
    """The communicator along one dimension of a mesh, on the mesh's kind of device.

    Args:
        mesh: a DeviceMesh.
        dim: number or name; None for a mesh of one dimension.
        timeout_seconds: see of_group.
    """
    kind = mesh.device_type
    device = torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else kind
    return of_group(mesh.get_group(dim), device=device, timeout_seconds=timeout_seconds)


def _join(
    group: dist.ProcessGroup, device: torch.device, timeout_seconds: float | None
) -> Communicator:
    own = getattr(group, "communicator", None)  # a process group of ours
    if own is not None and device.type == "cpu":
        return cast("Communicator", own)
    if group.size() == 1:
        return SoloCommunicator(device)
    if device.type == "cpu":
        communicator = connect_group(group, timeout_of(timeout_seconds))
        if communicator is not None:
            return communicator
        if group.rank() == 0:
            warnings.warn(
                "the group's ranks are on several hosts and have no store to meet in: operations "
                "go through torch.distributed",
                stacklevel=3,
            )
    return GroupCommunicator(group, device)


def timeout_of(timeout_seconds: float | None) -> float:
    """The timeout given, or PYPARALLEL_TIMEOUT, or 600 s; ValueError if it is not positive.

    "For ever", infinity for instance, is as long as the clocks beneath can count.
    """
    if timeout_seconds is None:
        given = os.environ.get("PYPARALLEL_TIMEOUT")
        try:
            timeout_seconds = DEFAULT_TIMEOUT_SECONDS if given is None else float(given)
        except ValueError:
            raise ValueError(f"PYPARALLEL_TIMEOUT is {given!r}, not a number") from None
    if not timeout_seconds > 0:
        raise ValueError(f"the timeout must be positive, it is {timeout_seconds}")
    return min(timeout_seconds, _LONGEST_SECONDS)
