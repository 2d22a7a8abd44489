"""Prints where the wheel nvidia-cuda-runtime has put cuda_runtime.h; nothing if it is not there."""

import sys
from pathlib import Path

# Wheels of CUDA 13 share nvidia/cu13; older ones have a folder each, which is not enough.
for entry in sys.path:
    for header in sorted(Path(entry).glob("nvidia/cu*/include/cuda_runtime.h"), reverse=True):
        print(header.parent.as_posix())
        sys.exit()
