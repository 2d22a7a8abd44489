"""Where NCCL may lie: named by the user, or in the wheels beside torch. Nothing is loaded here."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

VARIABLE = "PYPARALLEL_NCCL_LIBRARY"
_NAME = "libnccl.so.2"


def named_library() -> str:
    """The library that the environment names, or ""."""
    return os.environ.get(VARIABLE, "")


def libraries_beside_torch() -> list[str]:
    """The NCCL of torch's own wheels, without importing torch.cuda.

    A CUDA build of torch depends on a wheel that puts the library in nvidia/nccl/lib; builds that
    bring it along keep it in torch/lib.
    """
    folders = []
    for package, *inside in (("nvidia", "nccl", "lib"), ("torch", "lib")):
        spec = importlib.util.find_spec(package)
        for location in spec.submodule_search_locations or () if spec else ():
            folders.append(Path(location, *inside))
    return [str(folder / _NAME) for folder in folders if (folder / _NAME).is_file()]
