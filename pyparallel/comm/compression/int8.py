"""Int8: gradients travel as 8-bit integers, a float32 scale for every 256 of them.

Every rank owns one part of the bucket's blocks and is the only one to add that part up:

    encode(gradient + error)  ->  all_to_all  ->  mean of the ranks' own-part values in float32
    encode(mean)              ->  all_gather  ->  decode, from the same bytes on all ranks

About 1 byte an element each way instead of 4. What the second encoding drops would be lost for all
ranks; the owner puts it, times the world size, into its own error, which is a mean's part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyparallel._block_codec import BLOCK, decode_blocks, encode_blocks, num_blocks, sum_blocks
from pyparallel.comm.communicator import Communicator
from pyparallel.comm.compression.compressor import Compressor
from pyparallel.comm.compression.staged import Stages
from pyparallel.comm.compression.state import ErrorState, Slot

_SCALE_BYTES = 4


@dataclass(frozen=True)
class Int8:
    """Blocks of 256 elements travel as 8-bit integers with a scale: 1.02 bytes an element.

    Inf and NaN make NaN of their block on all ranks, in that step only.
    """

    def over(
        self, communicator: Communicator, *, names: Collection[str] | None = None
    ) -> Int8Compressor:
        """See Scheme.over."""
        return Int8Compressor(self, communicator, names)


class Int8State(ErrorState):
    """The error, and the buffers of both exchanges.

    A message is as long for every part: ``part`` codes, then a float32 scale for each block.

    Attributes:
        part: elements of a rank's part, whole blocks; the last parts may be shorter or empty.
        outgoing: messages to the ranks; later those that the owners have made.
        incoming: the ranks' messages of the own part.
        own: the own part's mean as a message.
        mean: the own part in float32.
        dropped: what encoding the mean dropped.
        gaps: elements between the slots, which stay 0 when their block becomes NaN.
    """

    def __init__(self, flat: Tensor, slots: Sequence[Slot], communicator: Communicator) -> None:
        """Allocates what travels with the communicator."""
        super().__init__(flat, slots)
        world_size, self.numel = communicator.world_size, flat.numel()
        blocks = -(-num_blocks(self.numel) // world_size)
        self.part = blocks * BLOCK
        num_bytes = self.part + blocks * _SCALE_BYTES
        self.outgoing = communicator.empty(world_size, num_bytes, dtype=torch.uint8)
        self.incoming = communicator.empty(world_size, num_bytes, dtype=torch.uint8)
        self.own = communicator.empty(1, num_bytes, dtype=torch.uint8)
        begin, end = self.range_of(communicator.rank)
        self.mean = torch.empty(end - begin, dtype=torch.float32, device=flat.device)
        self.dropped = torch.empty_like(self.mean)
        self.gaps = _gaps(slots, self.numel).to(flat.device)

    def range_of(self, rank: int) -> tuple[int, int]:
        """The part that a rank owns: first element, one past the last."""
        return min(rank * self.part, self.numel), min((rank + 1) * self.part, self.numel)

    def codes_and_scales(self, messages: Tensor, numel: int) -> tuple[Tensor, Tensor]:
        """What stands in messages of `numel` elements each, one a row."""
        scales = messages[:, self.part : self.part + _SCALE_BYTES * num_blocks(numel)]
        return messages[:, :numel].view(torch.int8), scales.view(torch.float32)


class Int8Compressor(Compressor[Int8State]):
    """Quantises twice: what each rank brings, and the mean."""

    def _new_state(self, flat: Tensor, slots: Sequence[Slot]) -> Int8State:
        return Int8State(flat, slots, self._communicator)

    def _stages(self, flat: Tensor, state: Int8State, background: bool) -> Stages:
        communicator = self._communicator
        parts = [state.range_of(rank) for rank in range(communicator.world_size)]
        for rank, (begin, end) in enumerate(parts):
            if begin < end:
                message = state.outgoing[rank : rank + 1]
                codes, scales = state.codes_and_scales(message, end - begin)
                encode_blocks(flat[begin:end], codes[0], scales[0], error=state.error[begin:end])
        yield communicator.all_to_all(state.incoming, state.outgoing, background=background)
        begin, end = parts[communicator.rank]
        if begin < end:
            factor = 1 / communicator.world_size
            sum_blocks(
                *state.codes_and_scales(state.incoming, end - begin), state.mean, factor=factor
            )
            codes, scales = state.codes_and_scales(state.own, end - begin)
            encode_blocks(state.mean, codes[0], scales[0], error=state.dropped.zero_())
            state.error[begin:end].add_(state.dropped, alpha=communicator.world_size)
        yield communicator.all_gather(state.outgoing, state.own, background=background)
        for rank, (begin, end) in enumerate(parts):
            if begin < end:
                message = state.outgoing[rank : rank + 1]
                codes, scales = state.codes_and_scales(message, end - begin)
                decode_blocks(codes[0], scales[0], flat[begin:end])
        if state.gaps.numel() > 0:
            flat.index_fill_(0, state.gaps, 0)


def _gaps(slots: Sequence[Slot], numel: int) -> Tensor:
    """The elements of no slot."""
    free = torch.ones(numel, dtype=torch.bool)
    for slot in slots:
        free[slot.offset : slot.end] = False
    return free.nonzero().flatten()
