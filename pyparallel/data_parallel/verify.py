"""Ranks agree before they train: on names, shapes and dtypes, and on rank 0's values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyparallel._tensors import is_dense
from pyparallel.comm import Communicator

Signature = list[list[str]]


def signature(module: nn.Module) -> Signature:
    """Name and kind (dtype, shape, memory order, frozen or not) of all parameters and buffers."""
    kinds = [[name, _kind(param)] for name, param in module.named_parameters()]
    return kinds + [[name, "a buffer " + _kind(buffer)] for name, buffer in module.named_buffers()]


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
        if is_dense(data):  # in memory order, whatever the order of dimensions
            works.append(communicator.broadcast(_bytes(data), background=False))
        else:
            copy = data.contiguous()
            communicator.broadcast(_bytes(copy), background=False).wait()
            data.copy_(copy)
    for work in works:
        work.wait()


def _gather(value: bytes, communicator: Communicator, device: torch.device) -> list[bytes]:
    part = torch.frombuffer(bytearray(value), dtype=torch.uint8).to(device)
    whole = torch.empty(communicator.world_size * len(value), dtype=torch.uint8, device=device)
    communicator.all_gather(whole, part).wait()
    data = bytes(whole.cpu().numpy())
    return [data[i : i + len(value)] for i in range(0, len(data), len(value))]


def _kind(tensor: Tensor) -> str:
    text = f"{tensor.dtype} {tuple(tensor.shape)}"
    if not tensor.is_contiguous():  # values and gradients travel in memory order
        text += f" with strides {tensor.stride()}"
    return (
        text if tensor.requires_grad or not isinstance(tensor, nn.Parameter) else text + " frozen"
    )


def _bytes(dense: Tensor) -> Tensor:
    """The memory of a dense tensor: a broadcast asks for no dtype that communicators know."""
    stretch = torch.as_strided(dense, (dense.numel(),), (1,), dense.storage_offset())
    return stretch.view(torch.uint8)


def _difference(first: Signature, other: Signature, rank: int) -> str:
    for (name, kind), (other_name, other_kind) in zip(first, other, strict=False):
        if name != other_name:
            return f"rank 0 has {name!r} where rank {rank} has {other_name!r}"
        if kind != other_kind:
            return f"{name!r} is {kind} on rank 0 and {other_kind} on rank {rank}"
    longer, shorter = (0, rank) if len(first) > len(other) else (rank, 0)
    extra = (first if len(first) > len(other) else other)[min(len(first), len(other))][0]
    return f"{extra!r} is there on rank {longer} and missing on rank {shorter}"
