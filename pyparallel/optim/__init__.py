"""Optimizers: torch.optim's interface over kernels that pass over memory once."""

from pyparallel.optim.adam import Adam
from pyparallel.optim.adamw import AdamW

__all__ = ["Adam", "AdamW"]
