"""What a compressor remembers of a bucket, saved and moved parameter by parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from pyparallel._tensors import is_dense
from pyparallel.comm.communicator import Work

TensorsByName = dict[str, Tensor]


@dataclass(frozen=True)
class Slot:
    """A parameter's place in a bucket.

    Attributes:
        name: of the parameter; its part of the state is saved under it.
        offset: first element in the bucket.
        shape: sizes of the dimensions, in memory order.
    """

    name: str
    offset: int
    shape: tuple[int, ...]

    @classmethod
    def of(cls, name: str, offset: int, tensor: Tensor) -> Slot:
        """The place of a gradient that lies in the bucket as `tensor` lies in memory."""
        pairs = list(zip(tensor.stride(), tensor.shape, strict=True))
        if is_dense(tensor):
            pairs.sort(key=lambda pair: -pair[0])
        return cls(name, offset, tuple(size for _, size in pairs))

    @property
    def end(self) -> int:
        """One past the last element."""
        return self.offset + prod(self.shape)


class BucketState:
    """What a scheme keeps of one bucket from step to step; subclasses add buffers.

    Attributes:
        slots: the parameters in the bucket.
        work: the last one, which uses the buffers until it is completed.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        """Of a bucket with these parameters."""
        self.slots = tuple(slots)
        self.work: Work | None = None

    def tensors(self) -> dict[str, TensorsByName]:
        """What is saved, by kind and parameter: views of the memory in use."""
        return {}

    def reset(self) -> None:
        """Puts everything back to how it starts."""

    def check(self, saved: Mapping[str, TensorsByName]) -> None:
        """Whether adopt() would take it.

        Raises:
            ValueError: a tensor of another size, with both.
        """
        for kind, by_name in self.tensors().items():
            for name, tensor in by_name.items():
                value = saved.get(kind, {}).get(name)
                if value is not None and value.shape != tensor.shape:
                    raise ValueError(
                        f"compression: the saved {kind} of {name!r} has shape "
                        f"{tuple(value.shape)}, this run's has {tuple(tensor.shape)}"
                    )

    def adopt(self, saved: Mapping[str, TensorsByName]) -> None:
        """Takes its parameters' tensors out of what was saved or belonged to other buckets."""
        self.check(saved)
        for kind, by_name in self.tensors().items():
            for name, tensor in by_name.items():
                value = saved.get(kind, {}).pop(name, None)
                if value is not None:
                    tensor.copy_(value)


class ErrorState(BucketState):
    """Keeps what this rank has not sent yet.

    Attributes:
        error: float32, one for each element of the bucket.
    """

    def __init__(self, flat: Tensor, slots: Sequence[Slot]) -> None:
        """Nothing is owed yet."""
        super().__init__(slots)
        self.error = torch.zeros(flat.numel(), dtype=torch.float32, device=flat.device)

    def tensors(self) -> dict[str, TensorsByName]:
        """The errors; see BucketState.tensors."""
        return {"error": {slot.name: self.error[slot.offset : slot.end] for slot in self.slots}}

    def reset(self) -> None:
        """See BucketState.reset."""
        self.error.zero_()
