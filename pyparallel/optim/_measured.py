"""MeasuredOptimizer: a step that first sums over each tensor, still one native call per batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._batch import Batch, State


class MeasuredOptimizer(FusedOptimizer):
    """Base of the optimizers whose update of a tensor depends on norms over that tensor.

    The sums are made in float64, in an order that depends on the sizes alone: neither the number of
    threads nor the device of equal kind changes a bit. They stay on the device. A subclass whose
    factor is a state of the algorithm names it in ``factor_key``: one float64 per parameter.
    """

    completes_groups = True

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Gives groups from foreign checkpoints the keys they lack."""
        super().__setstate__(state)
        complete_groups(self)

    def _make_batch(
        self,
        owners: list[Tensor],
        params: list[Tensor],
        grads: list[Tensor],
        group: dict[str, Any],
    ) -> Batch:
        refuse_shards(self, owners)
        return super()._make_batch(owners, params, grads, group)

    def _factors(self, states: list[State], device: torch.device) -> list[Tensor]:
        if self.factor_key is not None:
            return [state[self.factor_key] for state in states]
        return list(torch.ones(len(states), dtype=torch.float64, device=device).unbind())

    def _prepare_state(self, param: Tensor, group: dict[str, Any]) -> None:
        super()._prepare_state(param, group)
        key = self.factor_key
        if key is not None and key not in self.state[param]:
            device = _tensors.local(param).device
            self.state[param][key] = torch.zeros((), dtype=torch.float64, device=device)

    def _state_shape(self, param: Tensor, key: str) -> torch.Size:
        return torch.Size() if key == self.factor_key else super()._state_shape(param, key)

    def _own(self, param: Tensor, name: str, value: Tensor) -> Tensor:
        if name == self.factor_key:
            return value.to(param.device, torch.float64, copy=True)
        return super()._own(param, name, value)


def complete_groups(optimizer: FusedOptimizer) -> None:
    """Groups that lack a hyperparameter get the constructor's."""
    given = optimizer.defaults.keys() - {"differentiable"}  # that one torch adds by itself
    for group in optimizer.param_groups:
        for key in given:
            group.setdefault(key, optimizer.defaults[key])


def refuse_shards(optimizer: FusedOptimizer, owners: list[Tensor]) -> None:
    """Refuses parameters of which other ranks hold a part.

    Raises:
        TypeError: naming the shape.
    """
    for owner in owners:
        if _tensors.shard_groups(owner):
            raise TypeError(
                f"{type(optimizer).__name__}: a parameter of shape {tuple(owner.shape)} is a "
                "sharded DTensor; the update needs the whole tensor, which lies on several ranks"
            )
