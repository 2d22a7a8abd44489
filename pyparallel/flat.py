"""FlatLayout: where each parameter lies in the flat buffers and in which bucket.

A *plane* is one allocation over the layout (gradients, say); bucket, shard and checkpoint are
ranges of it. Parameters stand in reverse order of use, each at a multiple of 64 bytes:

    plane   | p9 | p8   ||  p7     | p6 | p5 ||  p4 ...
            bucket 0     bucket 1             bucket 2
            <= 1 MiB     <= 25 MiB
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyparallel._tensors import is_dense

FIRST_BUCKET_BYTES = 1 << 20
BUCKET_BYTES = 25 << 20
ALIGNMENT_BYTES = 64


@dataclass(frozen=True)
class Bucket:
    """A range of the layout that is reduced in one operation.

    Attributes:
        begin: first element.
        end: one past the last element.
        members: indices of its parameters, in layout order.
    """

    begin: int
    end: int
    members: tuple[int, ...]


class FlatLayout:
    """The places of parameters of one dtype, in elements.

    Attributes:
        offsets: first element of each parameter, by its index in the list given.
        numel: elements of a plane, gaps included.
        buckets: in layout order, the order in which backward fills them.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        *,
        first_bucket_bytes: int = FIRST_BUCKET_BYTES,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        """Lays out parameters of one dtype.

        Args:
            params: in the order of their use in forward; all of one dtype.
            first_bucket_bytes: cap of the first bucket, small so that reduction starts early.
            bucket_bytes: cap of the others. A parameter larger than the cap has its own bucket.

        Raises:
            ValueError: parameters of several dtypes, or a cap below 1.
        """
        if first_bucket_bytes < 1 or bucket_bytes < 1:
            raise ValueError(f"bucket caps must be positive: {first_bucket_bytes}, {bucket_bytes}")
        dtypes = {param.dtype for param in params}
        if len(dtypes) > 1:
            raise ValueError(f"one layout holds one dtype, not {sorted(map(str, dtypes))}")
        self._params = list(params)
        self.offsets = [0] * len(params)
        self.numel = 0
        buckets: list[Bucket] = []
        members: list[int] = []
        begin = 0
        for index in reversed(range(len(params))):
            item_size = params[index].dtype.itemsize
            cap = bucket_bytes if buckets else first_bucket_bytes
            if members and (self.numel - begin + params[index].numel()) * item_size > cap:
                buckets.append(Bucket(begin, self.numel, tuple(members)))
                members, begin = [], self.numel
            self.offsets[index] = self.numel
            members.append(index)
            line = max(1, ALIGNMENT_BYTES // item_size)
            self.numel += -(-params[index].numel() // line) * line
        if members:
            buckets.append(Bucket(begin, self.numel, tuple(members)))
        self.buckets = tuple(buckets)

    def plane(self, allocate: Callable[[int], Tensor]) -> Tensor:
        """One allocation over the layout: `allocate(numel)` returns a flat tensor."""
        plane = allocate(self.numel)
        if plane.shape != (self.numel,):
            raise ValueError(f"a plane has shape ({self.numel},), not {tuple(plane.shape)}")
        return plane

    def view(self, plane: Tensor, index: int) -> Tensor:
        """The place of a parameter in a plane, with the parameter's shape.

        Strides are the parameter's if it is dense, else those of a contiguous tensor.
        """
        param = self._params[index]
        begin = self.offsets[index]
        if not is_dense(param):
            return plane[begin : begin + param.numel()].view(param.shape)
        return torch.as_strided(
            plane, param.shape, param.stride(), int(plane.storage_offset()) + begin
        )
