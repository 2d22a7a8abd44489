"""Optimizers: torch.optim's interface over kernels that pass over memory once."""

from pyparallel.optim._base import FusedOptimizer
from pyparallel.optim.adafactor import Adafactor
from pyparallel.optim.adagrad import Adagrad
from pyparallel.optim.adam import Adam
from pyparallel.optim.adamw import AdamW
from pyparallel.optim.convert import from_torch
from pyparallel.optim.lamb import LAMB
from pyparallel.optim.lars import LARS
from pyparallel.optim.lion import Lion
from pyparallel.optim.muon import Muon
from pyparallel.optim.novograd import NovoGrad
from pyparallel.optim.rmsprop import RMSprop
from pyparallel.optim.sgd import SGD

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "FusedOptimizer",
    "Lion",
    "Muon",
    "NovoGrad",
    "RMSprop",
    "from_torch",
]
