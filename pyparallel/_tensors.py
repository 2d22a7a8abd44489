"""The only place where a tensor becomes an address, a dtype code, a device and a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from pyparallel._native import core

DTYPE_CODES: dict[torch.dtype, int] = {
    getattr(torch, name): code for name, code in core.DTYPES.items()
}
"""Dtypes that the core calculates with."""
MOVED_DTYPE_CODES: dict[torch.dtype, int] = {
    getattr(torch, name): code for name, code in core.MOVED_DTYPES.items() if hasattr(torch, name)
}
"""Those, and the dtypes that communicators can only move. Which there are depends on torch."""
_data_ptr = Tensor.data_ptr


def addresses(tensors: Iterable[Tensor]) -> list[int]:
    """The first address of each tensor."""
    return list(map(_data_ptr, tensors))


def dtype_code(dtype: torch.dtype, *, what: str) -> int:
    """The core's code of a dtype; TypeError naming `what` if the core does not know it."""
    code = DTYPE_CODES.get(dtype)
    if code is None:
        known = ", ".join(str(known).removeprefix("torch.") for known in DTYPE_CODES)
        raise TypeError(f"{what} has dtype {dtype}, which is none of {known}")
    return code


def moved_dtype_code(dtype: torch.dtype, *, what: str) -> int:
    """Like dtype_code, for a dtype that is only moved."""
    code = MOVED_DTYPE_CODES.get(dtype)
    if code is None:
        raise TypeError(f"{what} has dtype {dtype}, which the core does not know")
    return code


def local(tensor: Tensor) -> Tensor:
    """The memory of this rank: a DTensor's shard, or the tensor itself."""
    if type(tensor) is Tensor or type(tensor).__name__ != "DTensor":
        return tensor
    shard = tensor.to_local()  # type: ignore[attr-defined]
    assert isinstance(shard, Tensor)
    return shard


def local_grad(grad: Tensor, owner: Tensor, *, what: str) -> Tensor:
    """This rank's part of a gradient, which must lie on the ranks as its parameter does.

    Raises:
        TypeError: other placements, such as a sum still to be made.
    """
    of_grad, of_owner = getattr(grad, "placements", None), getattr(owner, "placements", None)
    if of_grad != of_owner:
        raise TypeError(
            f"{what} has the placements {of_owner}, its gradient {of_grad}: redistribute it"
        )
    return local(grad)


def shard_groups(tensor: Tensor) -> tuple[ProcessGroup, ...]:
    """The process groups over which a DTensor is sharded; none for other tensors.

    Raises:
        TypeError: a DTensor that is neither sharded nor replicated (a sum still to be made).
    """
    if type(tensor).__name__ != "DTensor":
        return ()
    groups = []
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    for dimension, placement in enumerate(placements):
        if placement.is_partial():
            raise TypeError(f"a DTensor with placement {placement} is not the sum of its parts yet")
        if not placement.is_replicate():
            groups.append(mesh.get_group(dimension))
    return tuple(groups)


def device_and_stream(device: torch.device) -> tuple[int, int]:
    """(-1, 0) for the CPU; (index, handle of the current stream) for a CUDA device."""
    if device.type == "cpu":
        return -1, 0
    if device.type != "cuda":
        raise ValueError(f"no kernels for device {device}: pyparallel runs on cpu and cuda")
    stream = torch.cuda.current_stream(device)
    return stream.device_index, stream.cuda_stream


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one stretch of memory without gaps or overlaps, in any order."""
    if tensor.is_contiguous():
        return True
    expected = 1
    dimensions = (pair for pair in zip(tensor.stride(), tensor.shape, strict=True) if pair[1] != 1)
    for stride, size in sorted(dimensions):
        if stride != expected:
            return False
        expected *= size
    return True


def check_memory(tensor: Tensor, *, what: str) -> None:
    """Refuses by name what has no plain dense memory behind it.

    Raises:
        TypeError: a sparse, meta, fake, distributed or otherwise wrapped tensor.
        ValueError: a tensor with gaps or overlapping elements, or a lazy negation or conjugate.
    """
    if tensor.layout is not torch.strided:
        raise TypeError(f"{what} is {tensor.layout}; only dense (strided) tensors are supported")
    kind = type(tensor).__name__
    if tensor.device.type == "meta":
        raise TypeError(f"{what} is a meta tensor: it has no memory; materialise it first")
    if kind == "FakeTensor":
        raise TypeError(f"{what} is a FakeTensor: it has no memory")
    if kind == "DTensor":
        raise TypeError(f"{what} is a DTensor: pass its local shard, tensor.to_local()")
    if not is_dense(tensor):
        raise ValueError(
            f"{what} of shape {tuple(tensor.shape)} with strides {tensor.stride()} has gaps or "
            "overlapping elements; only dense memory (any order of dimensions) is supported"
        )
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(
            f"{what} is a lazy negation or conjugate of what lies in memory: "
            "use resolve_neg() or resolve_conj()"
        )
    if tensor.numel() > 0 and tensor.data_ptr() == 0:
        raise TypeError(f"{what} is a {kind} without memory of its own")


def _one_list(tensors: Sequence[Tensor], what: str) -> tuple[int, torch.device]:
    first = tensors[0]
    for index, tensor in enumerate(tensors):
        check_memory(tensor, what=f"{what}: tensor {index}")
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{what}: tensor {index} is {tensor.dtype} on {tensor.device}, "
                f"tensor 0 is {first.dtype} on {first.device}"
            )
    return dtype_code(first.dtype, what=what), first.device


def _move(
    tensors: Sequence[Tensor], flat: Tensor, offsets: Sequence[int], scale: float, *, back: bool
) -> None:
    what = "unpack" if back else "pack"
    if len(tensors) != len(offsets):
        raise ValueError(f"{what}: {len(tensors)} tensors, but {len(offsets)} offsets")
    if not tensors:
        return
    tensor_dtype, device = _one_list(tensors, what)
    check_memory(flat, what=f"{what}: flat")
    if flat.device != device or not flat.is_contiguous():
        raise ValueError(f"{what}: flat must be contiguous on {device}, it is on {flat.device}")
    for index, (tensor, offset) in enumerate(zip(tensors, offsets, strict=True)):
        if offset < 0 or offset + tensor.numel() > flat.numel():
            raise ValueError(
                f"{what}: tensor {index} needs elements {offset} to {offset + tensor.numel()} "
                f"of flat, which has {flat.numel()}"
            )
    core.pack(
        addresses(tensors),
        list(offsets),
        [tensor.numel() for tensor in tensors],
        tensor_dtype,
        flat.data_ptr(),
        dtype_code(flat.dtype, what=f"{what}: flat"),
        scale,
        back,
        *device_and_stream(device),
        torch.get_num_threads(),
    )
    torch.autograd.graph.increment_version(list(tensors) if back else flat)


def pack(
    tensors: Sequence[Tensor], flat: Tensor, offsets: Sequence[int], *, scale: float = 1.0
) -> None:
    """Casts and scales tensors into slices of one flat buffer, in one pass.

    ``flat[offset + i] = cast(tensor.storage order[i] * scale)``. On CUDA it is enqueued on the
    current stream and nothing synchronises.

    Args:
        tensors: dense, of one floating dtype and device (memory order is kept, not the shape's).
        flat: contiguous, any floating dtype, on the same device.
        offsets: first element of each tensor's slice in ``flat``.
        scale: factor, applied in float32 (float64 if either side is).

    Raises:
        ValueError: devices, lengths, ranges or dtypes that do not fit, with both values.
        TypeError: tensors without plain memory.
    """
    _move(tensors, flat, offsets, scale, back=False)


def unpack(
    flat: Tensor, offsets: Sequence[int], tensors: Sequence[Tensor], *, scale: float = 1.0
) -> None:
    """The way back of :func:`pack`: slices of ``flat``, cast and scaled, into the tensors."""
    _move(tensors, flat, offsets, scale, back=True)


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares of all elements, and whether any is not finite, in one read.

    Args:
        tensors: dense, of one floating dtype (float32, float64, bfloat16, float16) and device.

    Returns:
        Two float64 on the tensors' device: the sum, and 1.0 if an element is inf or NaN, else 0.0.
        Nothing synchronises.
    """
    if not tensors:
        return torch.zeros(2, dtype=torch.float64)
    _, device = _one_list(tensors, "sum_of_squares")
    numels = [tensor.numel() for tensor in tensors]
    return sum_of_squares_at(addresses(tensors), numels, tensors[0].dtype, device)


def sum_of_squares_at(
    pointers: Sequence[int], numels: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """:func:`sum_of_squares` of checked memory: addresses and elements, one dtype, one device."""
    result = torch.zeros(2, dtype=torch.float64, device=device)
    index, stream = device_and_stream(device)
    num_bytes = core.sum_of_squares_workspace(pointers, numels, index)
    workspace = torch.empty(num_bytes, dtype=torch.uint8, device=device)
    core.sum_of_squares(
        pointers,
        numels,
        dtype_code(dtype, what="sum_of_squares"),
        result.data_ptr(),
        workspace.data_ptr(),
        index,
        stream,
        torch.get_num_threads(),
    )
    return result
