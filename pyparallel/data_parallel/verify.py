"""Ranks agree before they train: on names, shapes and dtypes, and on rank 0's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyparallel._tensors import is_dense
from pyparallel.comm import Communicator

Signature = list[tuple[str, list[int], str]]


def signature(module: nn.Module) -> Signature:
    """Name, shape and dtype of all parameters and buffers, in order."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [(name, list(tensor.shape), str(tensor.dtype)) for name, tensor in tensors]


def verify_signatures(own: Signature, communicator: Communicator, device: torch.device) -> None:
    """Compares the signatures of all ranks. Synchronises.

    Raises:
        ValueError: on all ranks, with the first difference to rank 0: the name and both sides.
    """
    text = json.dumps(own).encode()
    digest = hashlib.sha256(text).digest()
    if len(set(_gather(digest, communicator, device))) == 1:
        return
    length = max(
        int.from_bytes(size, "little")
        for size in _gather(len(text).to_bytes(8, "little"), communicator, device)
    )
    texts = _gather(text.ljust(length), communicator, device)
    signatures = [json.loads(text) for text in texts]
    for rank, other in enumerate(signatures):
        if other != signatures[0]:
            raise ValueError(f"the ranks' models differ: {_difference(signatures[0], other, rank)}")


def broadcast_tensors(tensors: Iterable[Tensor], communicator: Communicator) -> None:
    """Gives every rank the values of rank 0, in place."""
    works = []
    for tensor in tensors:
        data = tensor.detach()
        if data.numel() == 0:
            continue
        if data.is_contiguous():
            works.append(communicator.broadcast(data, background=False))
        elif is_dense(data):  # in memory order, whatever the order of dimensions
            stretch = torch.as_strided(data, (data.numel(),), (1,), data.storage_offset())
            works.append(communicator.broadcast(stretch, background=False))
        else:
            copy = data.contiguous()
            communicator.broadcast(copy, background=False).wait()
            data.copy_(copy)
    for work in works:
        work.wait()


def _gather(value: bytes, communicator: Communicator, device: torch.device) -> list[bytes]:
    part = torch.frombuffer(bytearray(value), dtype=torch.uint8).to(device)
    whole = torch.empty(communicator.world_size * len(value), dtype=torch.uint8, device=device)
    communicator.all_gather(whole, part).wait()
    data = bytes(whole.cpu().numpy())
    return [data[i : i + len(value)] for i in range(0, len(data), len(value))]


def _difference(first: Signature, other: Signature, rank: int) -> str:
    for (name, shape, dtype), (other_name, other_shape, other_dtype) in zip(
        first, other, strict=False
    ):
        if name != other_name:
            return f"rank 0 has {name!r} where rank {rank} has {other_name!r}"
        if (shape, dtype) != (other_shape, other_dtype):
            return (
                f"{name!r} is {dtype} {tuple(shape)} on rank 0 and "
                f"{other_dtype} {tuple(other_shape)} on rank {rank}"
            )
    longer, shorter = (0, rank) if len(first) > len(other) else (rank, 0)
    extra = (first if len(first) > len(other) else other)[min(len(first), len(other))][0]
    return f"{extra!r} is there on rank {longer} and missing on rank {shorter}"
