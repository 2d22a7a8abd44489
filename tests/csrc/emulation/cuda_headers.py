"""Prints the folder of cuda_runtime.h that the wheel nvidia-cuda-runtime has installed; nothing if it has not."""

import sys
from pathlib import Path

# Wheels of CUDA 13 share nvidia/cu13, those of CUDA 12 have a folder each and miss the others' headers.
for entry in sys.path:
    for header in sorted(Path(entry).glob("nvidia/cu*/include/cuda_runtime.h"), reverse=True):
        print(header.parent.as_posix())
        sys.exit()
