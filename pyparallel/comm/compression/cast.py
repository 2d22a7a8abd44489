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
    """The bucket as it travels."""

    def __init__(self, slots: Sequence[Slot], wire: Tensor) -> None:
        """With a buffer as long as the bucket."""
        super().__init__(slots)
        self.wire = wire


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

    def _new_state(self, flat: Tensor, slots: Sequence[Slot]) -> CastState | None:
        if flat.dtype.itemsize <= self._dtype.itemsize:
            return None
        return CastState(slots, self._communicator.empty(flat.numel(), dtype=self._dtype))

    def _stages(self, flat: Tensor, state: CastState, background: bool) -> Stages:
        _tensors.pack([flat], state.wire, [0])
        yield self._communicator.all_reduce(state.wire, "mean", background=background)
        _tensors.unpack(state.wire, [0], [flat])
