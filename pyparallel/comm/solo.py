"""SoloCommunicator: the world of one rank, so that no caller needs a special case."""

from __future__ import annotations

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm._operands import (
    check_operands,
    check_parts,
    check_reduction,
    check_root,
    check_shape,
)
from pyparallel.comm.communicator import Reduction


class DoneWork:
    """A collective that was completed when it was called."""

    def wait(self) -> None:
        """Returns at once."""

    def is_completed(self) -> bool:
        """True."""
        return True

    def exception(self) -> BaseException | None:
        """None."""
        return None


class SoloCommunicator:
    """Collectives of a single rank: copies, or nothing at all."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device) -> None:
        """Allocates on `device` in :meth:`empty`."""
        self.device = device

    def all_reduce(
        self, tensor: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> DoneWork:
        """See Communicator.all_reduce."""
        check_operands("all_reduce", self.device.type, tensor)
        check_reduction("all_reduce", op, tensor)
        return DoneWork()

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> DoneWork:
        """See Communicator.broadcast."""
        check_operands("broadcast", self.device.type, tensor)
        check_root(root, 1)
        return DoneWork()

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> DoneWork:
        """See Communicator.all_gather."""
        check_operands("all_gather", self.device.type, output, input)
        check_parts("all_gather", 1, whole=output, part=input)
        output.view(-1).copy_(input.view(-1))
        return DoneWork()

    def reduce_scatter(
        self, output: Tensor, input: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> DoneWork:
        """See Communicator.reduce_scatter."""
        check_operands("reduce_scatter", self.device.type, output, input)
        check_parts("reduce_scatter", 1, whole=input, part=output)
        check_reduction("reduce_scatter", op, input)
        output.view(-1).copy_(input.view(-1))
        return DoneWork()

    def barrier(self) -> DoneWork:
        """See Communicator.barrier."""
        return DoneWork()

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See Communicator.empty."""
        _tensors.dtype_code(dtype, what="empty: the tensor")
        check_shape(shape)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def close(self) -> None:
        """See Communicator.close."""
