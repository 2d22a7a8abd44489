"""Optimizers: torch.optim's interface over kernels that pass over memory once."""

from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim.adagrad import Adagrad
from pyparallel.optim.adam import Adam
from pyparallel.optim.adamw import AdamW
from pyparallel.optim.convert import from_torch
from pyparallel.optim.lion import Lion
from pyparallel.optim.rmsprop import RMSprop
from pyparallel.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "FusedOptimizer", "Lion", "RMSprop", "from_torch"]
