"""FP16 and BF16: gradients travel as 16-bit floats and are summed in float32."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.compression.compressor import Compressor, Scheme
from pyparallel.comm.compression.staged import Stages
from pyparallel.comm.compression.state import BucketState, Slot
from pyparallel.comm.torch_group import GroupCommunicator


@dataclass(frozen=True)
class FP16:
    """Gradients travel as float16: 2 bytes an element, 11 significant bits, at most 65504.

    A larger gradient becomes inf, on all ranks, as GradScaler expects of float16. The mean itself
    cannot overflow: the communicator sums in float32. 16-bit gradients travel as they are.
    """

    def over(
        self, communicator: Communicator, *, names: Collection[str] | None = None
    ) -> CastCompressor:
        """See Scheme.over."""
        return CastCompressor(self, communicator, names, torch.float16)


@dataclass(frozen=True)
class BF16:
    """Gradients travel as bfloat16: 2 bytes an element, float32's range, 8 significant bits.

    16-bit gradients travel as they are.
    """

    def over(
        self, communicator: Communicator, *, names: Collection[str] | None = None
    ) -> CastCompressor:
        """See Scheme.over."""
        return CastCompressor(self, communicator, names, torch.bfloat16)


class CastState(BucketState):
    """The bucket as it travels, in equal parts for the ranks.

    Attributes:
        wire: the 16-bit floats.
        received: the ranks' own parts, where this rank adds up one part of the bucket.
    """

    def __init__(self, slots: Sequence[Slot], wire: Tensor, received: Tensor | None) -> None:
        """Takes the buffers."""
        super().__init__(slots)
        self.wire = wire
        self.received = received


class CastCompressor(Compressor[CastState]):
    """Casts into a wire buffer, reduces that, casts back. Keeps nothing from step to step."""

    def __init__(
        self,
        scheme: Scheme,
        communicator: Communicator,
        names: Collection[str] | None,
        dtype: torch.dtype,
    ) -> None:
        """See Compressor; `dtype` is the wire's."""
        super().__init__(scheme, communicator, names)
        self._dtype = dtype
        # Where sums of 16-bit floats would travel as float32, every rank adds up a part by itself.
        self._exchanges = (
            isinstance(communicator, GroupCommunicator) and communicator.device.type != "cuda"
        )

    def _new_state(self, flat: Tensor, slots: Sequence[Slot]) -> CastState | None:
        if flat.dtype.itemsize <= self._dtype.itemsize:
            return None
        communicator = self._communicator
        if not self._exchanges:
            return CastState(slots, communicator.empty(flat.numel(), dtype=self._dtype), None)
        world_size = communicator.world_size
        shape = (world_size, -(-flat.numel() // world_size))
        wire, received = (communicator.empty(*shape, dtype=self._dtype) for _ in range(2))
        return CastState(slots, wire, received)

    def _stages(self, flat: Tensor, state: CastState, background: bool) -> Stages:
        communicator = self._communicator
        wire = state.wire.view(-1)
        _tensors.pack([flat], wire, [0])
        if state.received is None:
            yield communicator.all_reduce(wire, "mean", background=background)
        else:
            yield communicator.all_to_all(state.received, state.wire, background=background)
            mean = state.received.sum(0, dtype=torch.float32).div_(communicator.world_size)
            own = mean.to(self._dtype)
            yield communicator.all_gather(state.wire, own, background=background)
        _tensors.unpack(wire, [0], [flat])
