"""GroupCommunicator: our protocol over any torch ProcessGroup, NCCL or Gloo for instance."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from pyparallel.comm.communicator import Reduction


class GroupWork:
    """A torch collective in flight, with the division that turns a sum into a mean."""

    def __init__(self, work: dist.Work | None, tensors: tuple[Tensor, ...], divisor: int) -> None:
        self._work = work
        self._tensors = tensors  # kept alive; the first is the one that is written
        self._divisor = divisor

    def wait(self) -> None:
        """See Work.wait: on CUDA the current stream waits, the host does not."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            if self._divisor > 1:
                self._tensors[0].div_(self._divisor)
        self._tensors = ()

    def is_completed(self) -> bool:
        """See Work.is_completed."""
        return self._work is None or self._work.is_completed()

    def exception(self) -> BaseException | None:
        """See Work.exception."""
        if self._work is None or not self._work.is_completed() or self._work.is_success():
            return None
        return cast("BaseException", self._work.exception())


class GroupCommunicator:
    """Collectives of a torch ProcessGroup; order, devices and failures are the group's own.

    Gloo has no mean: it is a sum and a division. NCCL averages in the collective.
    """

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, *, owned: bool = False
    ) -> None:
        """Uses `group`; :meth:`empty` allocates on `device`.

        Args:
            group: the ranks.
            device: of all tensors.
            owned: whether close() ends the torch.distributed job.
        """
        self.rank = group.rank()
        self.world_size = group.size()
        self.device = device
        self._group = group
        self._owned = owned
        self._averages = device.type == "cuda" and dist.get_backend(group) == "nccl"

    def all_reduce(
        self, tensor: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> GroupWork:
        """See Communicator.all_reduce."""
        reduce_op, divisor = self._operation("all_reduce", op, tensor)
        work = dist.all_reduce(tensor, reduce_op, group=self._group, async_op=True)
        return GroupWork(work, (tensor,), divisor)

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> GroupWork:
        """See Communicator.broadcast."""
        source = dist.get_global_rank(self._group, root)
        work = dist.broadcast(tensor, source, group=self._group, async_op=True)
        return GroupWork(work, (tensor,), 1)

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> GroupWork:
        """See Communicator.all_gather."""
        work = dist.all_gather_into_tensor(
            output.view(-1), input.view(-1), group=self._group, async_op=True
        )
        return GroupWork(work, (output, input), 1)

    def reduce_scatter(
        self, output: Tensor, input: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> GroupWork:
        """See Communicator.reduce_scatter."""
        reduce_op, divisor = self._operation("reduce_scatter", op, input)
        work = dist.reduce_scatter_tensor(
            output.view(-1), input.view(-1), reduce_op, group=self._group, async_op=True
        )
        return GroupWork(work, (output, input), divisor)

    def barrier(self) -> GroupWork:
        """See Communicator.barrier."""
        return GroupWork(dist.barrier(group=self._group, async_op=True), (), 1)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See Communicator.empty."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def close(self) -> None:
        """See Communicator.close; a group that is not owned belongs to its maker and stays."""
        if self._owned and dist.is_initialized():
            dist.destroy_process_group()

    def _operation(self, what: str, op: str, tensor: Tensor) -> tuple[dist.ReduceOp.RedOpType, int]:
        operations = {
            "sum": dist.ReduceOp.SUM,
            "mean": dist.ReduceOp.AVG if self._averages else dist.ReduceOp.SUM,
            "max": dist.ReduceOp.MAX,
            "min": dist.ReduceOp.MIN,
        }
        if op not in operations:
            raise ValueError(f"{what}: op {op!r} is none of {', '.join(operations)}")
        if op == "mean" and not tensor.dtype.is_floating_point:
            raise ValueError(
                f"{what}: the mean of {tensor.dtype} is not an integer; use op='sum' and divide"
            )
        divisor = self.world_size if op == "mean" and not self._averages else 1
        return operations[op], divisor
