"""pyparallel: a parallel-training runtime for PyTorch.

Replace one line at a time: the optimizer (``pyparallel.optim.AdamW``), the wrapper
(``pyparallel.DataParallel``), the collectives (``pyparallel.init().communicator``).
"""

from typing import Any

from pyparallel import amp, comm, data, errors, monitor, optim
from pyparallel._native import core
from pyparallel.comm import backend
from pyparallel.context import Context, init
from pyparallel.data_parallel import DataParallel

__all__ = [
    "Context",
    "DataParallel",
    "amp",
    "comm",
    "data",
    "errors",
    "features",
    "init",
    "monitor",
    "optim",
]
backend.register()
__version__: str = core.features()["version"]


def features() -> dict[str, Any]:
    """What this build can do here.

    Returns:
        version; isa (the CPU kernels in use: baseline, avx2 or avx512); cuda (whether CUDA kernels
        were built), and then cuda_version, cuda_archs and cuda_devices (0 without a driver).
    """
    return core.features()
