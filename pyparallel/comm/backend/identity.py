"""Who a process group is to torch: the names and properties that C++ and Python look up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import Backend, Store

from pyparallel.comm.backend.dispatch import Dispatcher

NAME = "pyparallel"


class Identity(Dispatcher):
    """Names, store, devices and options; for the CPU the group is its own backend object."""

    supports_splitting = False
    supports_coalescing = False
    supports_time_estimate = False

    _store: Store
    _timeout: timedelta
    _group_name = ""
    _group_desc = ""

    def getBackendName(self) -> str:
        """What dist.get_backend() says."""
        return NAME

    name = _get_backend_name = getBackendName

    def setGroupName(self, name: str) -> None:
        """Called by torch when the group is made; functional collectives find it by the name."""
        self._group_name = name

    def getGroupName(self) -> str:
        """See setGroupName."""
        return self._group_name

    def setGroupDesc(self, description: str) -> None:
        """What the group is for."""
        self._group_desc = description

    def getGroupDesc(self) -> str:
        """See setGroupDesc."""
        return self._group_desc

    def get_group_store(self) -> Store:
        """The store that the group's ranks share."""
        return self._store

    @property
    def options(self) -> Any:
        """The name and the timeout, as a torch backend has them."""
        return Backend.Options(NAME, self._timeout)

    @property
    def _device_types(self) -> list[torch.device]:
        types = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        return [torch.device(type) for type in types]

    def _get_backend(self, device: torch.device) -> Any:
        return self if device.type == "cpu" else self.device_group(device)._get_backend(device)

    def _set_sequence_number_for_group(self) -> None:
        """Our communicator compares every operation between the ranks without it."""
