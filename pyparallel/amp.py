"""GradScaler: torch's, but gradients of our optimizers are read once and written never."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyparallel.optim import FusedOptimizer


class GradScaler(torch.amp.GradScaler):
    """torch.amp.GradScaler; with it, one read of the gradients finds inf and the norm to clip by.

    torch's own works with our optimizers as well, but looks for inf in a pass of its own that reads
    and writes all gradients. Other optimizers are handled as torch handles them.
    """

    def _check_inf_per_device(self, optimizer: torch.optim.Optimizer) -> dict[Any, Any]:
        if not isinstance(optimizer, FusedOptimizer):
            return super()._check_inf_per_device(optimizer)
        total = optimizer.read_gradients()
        found: dict[Any, Tensor] = {}
        if total is not None:
            found[total.device] = (total[1] != 0).to(torch.float32)
        self._per_optimizer_states[id(optimizer)]["found_inf_per_device"] = found
        return found
