"""What communicator.empty() gives: zeros from the process's default pools."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm._operands import check_shape
from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import default_pool


def zeros(device: torch.device, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros of a device, from its default pool, in the order of the current stream.

    torch's own allocator serves a CUDA device where this build has no CUDA.

    Raises:
        OutOfMemoryError: with the bytes asked for.
        ValueError: a negative size.
    """
    check_shape(shape)
    if device.type != "cpu" and not (device.type == "cuda" and core.features()["cuda"]):
        return torch.zeros(shape, dtype=dtype, device=device)
    _, stream = _tensors.device_and_stream(device)
    return default_pool(device).tensor(*shape, dtype=dtype, stream=stream).zero_()


def shared_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that other processes of this host can map, from the default pool of shared memory.

    Raises:
        OutOfMemoryError: with the bytes needed and available.
        ValueError: a negative size.
    """
    check_shape(shape)
    num_bytes = prod(shape) * dtype.itemsize
    if num_bytes == 0:
        return torch.empty(shape, dtype=dtype)
    why = ""
    if not num_bytes >> 63:  # more than the core can count
        try:
            return default_pool("shared").tensor(*shape, dtype=dtype).zero_()
        except OutOfMemoryError as error:
            why = f": {error}"
    available = core.available_memory()
    raise OutOfMemoryError(
        f"out of shared memory: {num_bytes} bytes needed, {available} bytes available{why}",
        num_bytes,
        available,
    )
