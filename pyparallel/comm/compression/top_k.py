"""TopK: only the largest elements travel, each with its index; the others wait in the error.

Stich et al. 2018 (arXiv:1809.07599): sparsified SGD with memory.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyparallel.comm.communicator import Communicator
from pyparallel.comm.compression.compressor import Compressor
from pyparallel.comm.compression.staged import Stages
from pyparallel.comm.compression.state import ErrorState, Slot


@dataclass(frozen=True)
class TopK:
    """Of each bucket the largest elements (of gradient and error together) travel, 8 bytes each.

    Every rank chooses its own and receives all the others', so this pays while
    ``ratio * world_size`` is well below 1. Inf and NaN are the largest of all.

    Attributes:
        ratio: of the elements that travel, above 0, at most 1; one element at least.
    """

    ratio: float = 0.01

    def __post_init__(self) -> None:
        """Checks the ratio."""
        if not 0 < self.ratio <= 1:
            raise ValueError(f"TopK: ratio must be above 0 and at most 1, it is {self.ratio}")

    def over(
        self, communicator: Communicator, *, names: Collection[str] | None = None
    ) -> TopKCompressor:
        """See Scheme.over."""
        return TopKCompressor(self, communicator, names, self.ratio)


class TopKState(ErrorState):
    """The error, and what travels: `count` float32 values, then as many int32 indices."""

    def __init__(
        self, flat: Tensor, slots: Sequence[Slot], communicator: Communicator, count: int
    ) -> None:
        """For `count` elements from each rank."""
        super().__init__(flat, slots)
        self.count = count
        self.message = communicator.empty(2 * count, dtype=torch.int32)
        self.messages = communicator.empty(communicator.world_size, 2 * count, dtype=torch.int32)


class TopKCompressor(Compressor[TopKState]):
    """Gathers the ranks' largest elements and adds them up in rank order."""

    def __init__(
        self,
        scheme: TopK,
        communicator: Communicator,
        names: Collection[str] | None,
        ratio: float,
    ) -> None:
        """See Compressor."""
        super().__init__(scheme, communicator, names)
        self._ratio = ratio

    def _new_state(self, flat: Tensor, slots: Sequence[Slot]) -> TopKState:
        if flat.numel() >= 1 << 31:
            raise ValueError(
                f"TopK: a bucket of {flat.numel()} elements; 32-bit indices reach {(1 << 31) - 1}"
            )
        count = max(1, int(self._ratio * flat.numel()))
        return TopKState(flat, slots, self._communicator, count)

    def _stages(self, flat: Tensor, state: TopKState, background: bool) -> Stages:
        error, count = state.error, state.count
        error.add_(flat)
        chosen = torch.topk(error.abs(), count, sorted=False).indices
        values, indices = _parts(state.message, count)
        torch.index_select(error, 0, chosen, out=values)
        indices.copy_(chosen)
        error.index_fill_(0, chosen, 0)
        error.nan_to_num_(0, 0, 0)  # more of them than places: enough have been sent
        yield self._communicator.all_gather(state.messages, state.message, background=background)
        total = flat if flat.dtype == torch.float32 else torch.zeros_like(flat, dtype=torch.float32)
        total.zero_()
        for message in state.messages:  # no index occurs twice in one: the order of sums is fixed
            values, indices = _parts(message, count)
            total.index_add_(0, indices, values, alpha=1 / self._communicator.world_size)
        if total is not flat:
            flat.copy_(total)


def _parts(message: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return message[:count].view(torch.float32), message[count:]
