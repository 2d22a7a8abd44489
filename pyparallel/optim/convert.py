"""from_torch: a live torch optimizer becomes ours, with its groups and its state."""

from __future__ import annotations

import inspect
from typing import Any, Unpack

import torch

from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim._options import FusedOptions
from pyparallel.optim.adafactor import Adafactor
from pyparallel.optim.adagrad import Adagrad
from pyparallel.optim.adam import Adam
from pyparallel.optim.adamw import AdamW
from pyparallel.optim.muon import Muon
from pyparallel.optim.rmsprop import RMSprop
from pyparallel.optim.sgd import SGD

_TWINS: dict[type[torch.optim.Optimizer], type[FusedOptimizer]] = {
    torch.optim.Adagrad: Adagrad,
    torch.optim.Adam: Adam,
    torch.optim.AdamW: AdamW,
    torch.optim.RMSprop: RMSprop,
    torch.optim.SGD: SGD,
}
# torch has had these two since 2.5 and 2.9.
_TWINS |= {
    getattr(torch.optim, twin.__name__): twin
    for twin in (Adafactor, Muon)
    if hasattr(torch.optim, twin.__name__)
}


def from_torch(optimizer: torch.optim.Optimizer, **options: Unpack[FusedOptions]) -> FusedOptimizer:
    """Our optimizer over the same parameters, with the groups and a copy of the state.

    Learning-rate schedulers hold the old optimizer: make them anew, or give them the new one.

    Args:
        optimizer: of torch.optim; untouched, and not to be stepped any more.
        **options: master, state_dtype, stochastic_rounding, seed, max_norm; see Options.

    Raises:
        TypeError: an optimizer that has no twin here, or a subclass, whose step we do not know.
    """
    twin = _TWINS.get(type(optimizer))
    if twin is None:
        known = ", ".join(sorted(cls.__name__ for cls in _TWINS))
        raise TypeError(
            f"{type(optimizer).__module__}.{type(optimizer).__qualname__} has no twin in "
            f"pyparallel.optim; torch.optim's {known} have"
        )
    accepted = inspect.signature(twin.__init__).parameters
    defaults: dict[str, Any] = {
        key: value for key, value in optimizer.defaults.items() if key in accepted
    }
    groups = [dict(group, params=list(group["params"])) for group in optimizer.param_groups]
    converted = twin(groups, **(defaults | dict(options)))
    converted.load_state_dict(optimizer.state_dict())
    return converted
