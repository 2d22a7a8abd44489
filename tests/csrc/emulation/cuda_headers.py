"""Prints the folder of cuda_runtime.h that the wheel nvidia-cuda-runtime installs, if there is one."""

import sys
from pathlib import Path

# Wheels of CUDA 13 share nvidia/cu13; older ones have a folder each, which is not enough.
for entry in sys.path:
    for header in sorted(Path(entry).glob("nvidia/cu*/include/cuda_runtime.h"), reverse=True):
        print(header.parent.as_posix())
        sys.exit()
