"""The protocol of communicators: operations on tensors, each returning a Work, in issue order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

Reduction = Literal["sum", "mean", "max", "min", "product"]
Algorithm = Literal["auto", "direct", "ring", "nccl"]
"""How a reduction travels: straight between the ranks, around a ring, or as NCCL chooses."""


@dataclass(frozen=True)
class Premultiplied:
    """The sum of every rank's tensor times that rank's factor, as NCCL's premultiplied sum.

    Attributes:
        factor: of this rank; multiplied in the precision that the sum is accumulated in.
    """

    factor: float


Op = Reduction | Premultiplied


class Work(Protocol):
    """An operation in flight.

    Attributes:
        started_ns: when it began to run, in nanoseconds of time.monotonic_ns(); 0 before.
        ended_ns: when it was through; 0 before. On CUDA both are known once the device has passed
            the operation, and asking does not synchronise.
    """

    @property
    def started_ns(self) -> int: ...  # noqa: D102

    @property
    def ended_ns(self) -> int: ...  # noqa: D102

    def wait(self) -> None:
        """Returns when the result is there; raises the operation's error.

        On the CPU it blocks this thread. On CUDA the current stream waits, the host does not.
        """

    def is_completed(self) -> bool:
        """Whether wait() would return at once."""

    def exception(self) -> BaseException | None:
        """The error of a completed operation, or None."""


class Communicator(Protocol):
    """Operations between the ranks of a job, which call the same ones in the same order.

    Tensors are contiguous (slices of flat planes among them) and on the communicator's device. They
    stay as they are until the work is completed. Operations that only move take every dtype, those
    that combine take floating dtypes and integers; 16-bit floats are summed in float32. Of an input
    and an output, one may be the other or this rank's part of it; they do not overlap otherwise.

    Operations run one after the other in the order of their issue, on which the ranks agree without
    asking: a rank that took a later one first would wait for peers that have not issued it, and may
    not before an earlier one is through. So what is needed first is issued first: gradient buckets
    as backward fills them, gathers of parameters in the order in which forward uses them. What is
    to overtake others has a communicator of its own: see pyparallel.comm.ahead_of.
    """

    rank: int
    world_size: int

    def all_reduce(
        self,
        tensor: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
    ) -> Work:
        """Combines the ranks' tensors; every rank gets the result in place, the same bits on all.

        Args:
            tensor: the same number of elements and dtype on all ranks.
            op: "sum", "mean" (floating dtypes only), "max", "min", "product" or Premultiplied.
            algorithm: "auto" takes the fastest. The result depends on ranks, their order and the
                algorithm, never on timing. In a ring, sums travel in the tensor's dtype: those of
                16-bit floats are rounded at every rank, not once.
            background: whether to make progress while the caller computes; without it a large
                operation may start only in ``wait()``, which is faster when no core is free.
        """

    def reduce(
        self, tensor: Tensor, root: int = 0, op: Op = "sum", *, background: bool = True
    ) -> Work:
        """Like all_reduce, but only the root's tensor is written."""

    def reduce_scatter(
        self,
        output: Tensor,
        input: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
    ) -> Work:
        """Combines the ranks' inputs and leaves part ``rank`` of the result in output.

        Args:
            output: of any shape.
            input: ``world_size * output.numel()`` elements; output may be this rank's part of it.
            op: see all_reduce.
            algorithm: see all_reduce.
            background: see all_reduce.
        """

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> Work:
        """Puts the ranks' inputs one after the other into every rank's output.

        Args:
            output: ``world_size * input.numel()`` elements.
            input: the same size on all ranks; may be this rank's part of output.
            background: see all_reduce.
        """

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> Work:
        """Copies the root's tensor into every rank's."""

    def gather(
        self, output: Tensor | None, input: Tensor, root: int = 0, *, background: bool = True
    ) -> Work:
        """Puts the ranks' inputs one after the other into the root's output.

        Args:
            output: ``world_size * input.numel()`` elements on the root; None elsewhere.
            input: the same size on all ranks.
            root: the rank that gathers.
            background: see all_reduce.
        """

    def scatter(
        self, output: Tensor, input: Tensor | None, root: int = 0, *, background: bool = True
    ) -> Work:
        """Gives part r of the root's input to rank r's output.

        Args:
            output: the same size on all ranks.
            input: ``world_size * output.numel()`` elements on the root; None elsewhere.
            root: the rank that scatters.
            background: see all_reduce.
        """

    def all_to_all(
        self,
        output: Tensor,
        input: Tensor,
        *,
        output_sizes: Sequence[int] | None = None,
        input_sizes: Sequence[int] | None = None,
        background: bool = True,
    ) -> Work:
        """Gives part r of this rank's input to rank r; output receives the ranks' parts in order.

        Args:
            output: as many elements as ``output_sizes`` sum to.
            input: as many elements as ``input_sizes`` sum to; apart from output.
            output_sizes: elements that come from each rank; default: equal parts.
            input_sizes: elements that go to each rank; default: equal parts. What rank a sends to
                rank b must be what b expects from a.
            background: see all_reduce.
        """

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> Work:
        """Sends a tensor to the rank that receives it with the same tag.

        Sends and receives are no part of the order of the other operations: they may be interleaved
        with them differently on every rank. Equal tags between two ranks match in order.
        """

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> Work:
        """Receives what `source` sends with this tag into a tensor of the same size and dtype.

        Args:
            tensor: overwritten.
            source: a rank, or None for whichever sends first; the work's `source` names it then.
            tag: at least 0.
        """

    def barrier(self) -> Work:
        """Completes when all ranks have called it."""

    def split(self, color: int | None, key: int = 0) -> Communicator | None:
        """The communicator of the ranks that gave the same color, ordered by key, then by rank.

        Called by all ranks of this communicator; synchronises them. A rank whose color is None gets
        None. The parts fail and close on their own.
        """

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A tensor on which this communicator's operations are fastest. Its values start as 0."""

    def abort(self, cause: str) -> None:
        """Ends what the ranks have in flight: this rank has failed and will not come any more.

        Every rank that waits for it, now or later, gets PeerFailedError with this rank, the
        operation and the cause, within 2 s. Calling it twice is harmless.
        """

    def close(self) -> None:
        """Leaves in good order: a peer that still waits for this rank gets PeerLostError."""
