"""The norm of all gradients and what follows from it, in one read and without a synchronisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyparallel import _tensors

if TYPE_CHECKING:
    from pyparallel.optim._batch import Batch


@dataclass(frozen=True)
class Clip:
    """What a step reads: float32 scalars on one device.

    Attributes:
        norm: 2-norm of all gradients, unscaled, before clipping.
        factor: gradients are multiplied by it.
        found_inf: not 0 if a gradient is not finite, or the scaler found one.
    """

    norm: Tensor
    factor: Tensor
    found_inf: Tensor

    def to(self, device: torch.device) -> Clip:
        """The same on another device."""
        return Clip(self.norm.to(device), self.factor.to(device), self.found_inf.to(device))


def sum_of_squares_of(batches: Iterable[Batch]) -> Tensor | None:
    """Reads all gradients once: [their sum of squares, 1.0 if one is not finite] in float64.

    Gradients of sharded DTensors are added up over the ranks that hold their shards. None if there
    are no gradients.
    """
    total: Tensor | None = None
    for batch in batches:
        part = _tensors.sum_of_squares_at(
            batch.grad_addresses, batch.numels, batch.grad_dtype, batch.device
        )
        for group in batch.shard_groups:
            torch.distributed.all_reduce(part, group=group)
        total = part if total is None else total + part.to(total.device)
    return total


def clip_of(
    total: Tensor, max_norm: float, grad_scale: Tensor | None, found_inf: Tensor | None
) -> Clip:
    """What sum_of_squares_of says about the step: torch's clip_grad_norm_ with norm_type 2.

    factor = min(1, max_norm / (norm + 1e-6)).
    """
    norm = total[0].sqrt()
    if grad_scale is not None:
        norm = norm / grad_scale.to(norm.device)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    skip = (total[1] != 0).to(torch.float32)
    if found_inf is not None:
        skip = skip + found_inf.to(skip.device)
    return Clip(norm.to(torch.float32), factor.to(torch.float32), skip)
