"""The torch.distributed backend "pyparallel": unmodified code over our shared-memory transport.

import pyparallel
torch.distributed.init_process_group("pyparallel")
"""

from pyparallel.comm.backend.process_group import PyparallelProcessGroup
from pyparallel.comm.backend.registration import register

__all__ = ["PyparallelProcessGroup", "register"]
