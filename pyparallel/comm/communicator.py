"""The protocol of communicators: collectives on tensors, each returning a Work, in issue order."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "max", "min"]


class Work(Protocol):
    """A collective in flight."""

    def wait(self) -> None:
        """Returns when the result is there; raises the collective's error.

        On the CPU it blocks this thread. On CUDA the current stream waits, the host does not.
        """

    def is_completed(self) -> bool:
        """Whether wait() would return at once."""

    def exception(self) -> BaseException | None:
        """The error of a completed collective, or None."""


class Communicator(Protocol):
    """Collectives between the ranks of a job, which call the same ones in the same order."""

    rank: int
    world_size: int

    def all_reduce(self, tensor: Tensor, op: Reduction = "sum", *, background: bool = True) -> Work:
        """Combines the ranks' tensors in rank order; every rank gets the result in place.

        Args:
            tensor: contiguous; the same shape and dtype on all ranks.
            op: "sum", "mean" (floating dtypes only), "max" or "min".
            background: whether to make progress while the caller computes; without it a large
                operation may start only in ``wait()``, which is faster when no core is free.
        """

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> Work:
        """Copies the root's tensor into every rank's."""

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> Work:
        """Puts the ranks' inputs one after the other into every rank's output.

        Args:
            output: contiguous, ``world_size * input.numel()`` elements.
            input: contiguous, the same size on all ranks; may be this rank's slice of output.
            background: see all_reduce.
        """

    def reduce_scatter(
        self, output: Tensor, input: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> Work:
        """Combines the ranks' inputs and leaves part ``rank`` of the result in output.

        Args:
            output: contiguous.
            input: contiguous, ``world_size * output.numel()`` elements.
            op: see all_reduce.
            background: see all_reduce.
        """

    def barrier(self) -> Work:
        """Completes when all ranks have called it."""

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor on which this communicator's collectives are fastest. Its values start as 0."""

    def close(self) -> None:
        """Leaves in good order: a peer that still waits for this rank gets PeerLostError."""
