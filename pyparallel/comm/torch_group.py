"""GroupCommunicator: our protocol over any torch ProcessGroup, NCCL, Gloo or MPI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyparallel.comm._buffers import zeros
from pyparallel.comm._group_work import GroupWork
from pyparallel.comm._operands import (
    check_algorithm,
    check_moved,
    check_only_root,
    check_parts,
    check_peer,
    check_reduction,
    check_root,
    check_sizes,
    check_tag,
)
from pyparallel.comm.communicator import Algorithm, Op, Premultiplied
from pyparallel.comm.solo import SoloCommunicator

_REDUCE_OPS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.SUM,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "product": dist.ReduceOp.PRODUCT,
}


class GroupCommunicator:
    """Operations of a torch ProcessGroup; order, devices and failures are the group's own.

    The group need not be registered with torch.distributed: its methods are called. NCCL averages
    in the operation. Other backends sum and divide, and sums of 16-bit floats travel as float32,
    because they would be rounded at every addition.
    """

    def __init__(
        self, group: dist.ProcessGroup, device: torch.device, *, owned: bool = False
    ) -> None:
        """Uses `group`; :meth:`empty` allocates on `device`.

        Args:
            group: the ranks.
            device: of all tensors.
            owned: whether close() ends the group.
        """
        self.rank = group.rank()
        self.world_size = group.size()
        self.device = device
        self._group: Any = group
        self._owned = owned
        self._nccl = device.type == "cuda"

    def all_reduce(
        self,
        tensor: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
    ) -> GroupWork:
        """See Communicator.all_reduce."""
        self._check_algorithm("all_reduce", algorithm)
        operand, options = self._operand("all_reduce", tensor, op, dist.AllreduceOptions())
        work = self._group.allreduce([operand], options)
        return GroupWork(work, (tensor, operand), self._result(tensor, operand, op))

    def reduce(
        self, tensor: Tensor, root: int = 0, op: Op = "sum", *, background: bool = True
    ) -> GroupWork:
        """See Communicator.reduce."""
        check_root(root, self.world_size, what="reduce")
        operand, options = self._operand("reduce", tensor, op, dist.ReduceOptions())
        options.rootRank = root
        if self.rank != root and operand is tensor:
            operand = tensor.clone()  # backends reduce in place everywhere
        work = self._group.reduce([operand], options)
        finish = self._result(tensor, operand, op) if self.rank == root else None
        return GroupWork(work, (tensor, operand), finish)

    def reduce_scatter(
        self,
        output: Tensor,
        input: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
    ) -> GroupWork:
        """See Communicator.reduce_scatter."""
        self._check_algorithm("reduce_scatter", algorithm)
        check_moved("reduce_scatter", self.device.type, output, input)
        check_parts("reduce_scatter", self.world_size, whole=input, part=output)
        options = dist.ReduceScatterOptions()
        operand, options = self._operand("reduce_scatter", input, op, options)
        part = output if operand.dtype == output.dtype else torch.empty_like(output).to(operand)
        work = self._group._reduce_scatter_base(part.view(-1), operand.view(-1), options)
        return GroupWork(work, (output, input, part, operand), self._result(output, part, op))

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> GroupWork:
        """See Communicator.all_gather."""
        check_moved("all_gather", self.device.type, output, input)
        check_parts("all_gather", self.world_size, whole=output, part=input)
        work = self._group._allgather_base(output.view(-1), input.view(-1))
        return GroupWork(work, (output, input))

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> GroupWork:
        """See Communicator.broadcast."""
        check_moved("broadcast", self.device.type, tensor)
        check_root(root, self.world_size)
        options = dist.BroadcastOptions()
        options.rootRank = root
        return GroupWork(self._group.broadcast([tensor], options), (tensor,))

    def gather(
        self, output: Tensor | None, input: Tensor, root: int = 0, *, background: bool = True
    ) -> GroupWork:
        """See Communicator.gather."""
        check_root(root, self.world_size, what="gather")
        check_only_root("gather", output, name="output", rank=self.rank, root=root)
        check_moved("gather", self.device.type, *([input] if output is None else [output, input]))
        options = dist.GatherOptions()
        options.rootRank = root
        parts = []
        if output is not None:
            check_parts("gather", self.world_size, whole=output, part=input)
            parts = [list(output.view(self.world_size, -1))]
        work = self._group.gather(parts, [input.view(-1)], options)
        return GroupWork(work, (output, input))

    def scatter(
        self, output: Tensor, input: Tensor | None, root: int = 0, *, background: bool = True
    ) -> GroupWork:
        """See Communicator.scatter."""
        check_root(root, self.world_size, what="scatter")
        check_only_root("scatter", input, name="input", rank=self.rank, root=root)
        check_moved("scatter", self.device.type, *([output] if input is None else [output, input]))
        options = dist.ScatterOptions()
        options.rootRank = root
        parts = []
        if input is not None:
            check_parts("scatter", self.world_size, whole=input, part=output)
            parts = [list(input.view(self.world_size, -1))]
        work = self._group.scatter([output.view(-1)], parts, options)
        return GroupWork(work, (output, input))

    def all_to_all(
        self,
        output: Tensor,
        input: Tensor,
        *,
        output_sizes: Sequence[int] | None = None,
        input_sizes: Sequence[int] | None = None,
        background: bool = True,
    ) -> GroupWork:
        """See Communicator.all_to_all."""
        check_moved("all_to_all", self.device.type, output, input)
        to = check_sizes("all_to_all", self.world_size, output, output_sizes, name="output_sizes")
        of = check_sizes("all_to_all", self.world_size, input, input_sizes, name="input_sizes")
        work = self._group.alltoall_base(output.view(-1), input.view(-1), to, of)
        return GroupWork(work, (output, input))

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> GroupWork:
        """See Communicator.send; NCCL knows no tags, it matches messages in order."""
        check_moved("send", self.device.type, tensor)
        check_peer("send", destination, rank=self.rank, world_size=self.world_size)
        check_tag("send", tag)
        return GroupWork(self._group.send([tensor], destination, tag), (tensor,))

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> GroupWork:
        """See Communicator.recv; NCCL cannot receive from whichever rank sends first."""
        check_moved("recv", self.device.type, tensor)
        check_tag("recv", tag)
        if source is None:
            return GroupWork(self._group.recv_anysource([tensor], tag), (tensor,))
        check_peer("recv", source, rank=self.rank, world_size=self.world_size)
        return GroupWork(self._group.recv([tensor], source, tag), (tensor,))

    def barrier(self) -> GroupWork:
        """See Communicator.barrier."""
        return GroupWork(self._group.barrier(), ())

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See Communicator.empty."""
        return zeros(self.device, shape, dtype)

    def split(self, color: int | None, key: int = 0) -> GroupCommunicator | SoloCommunicator | None:
        """See Communicator.split, by torch.distributed's new_group: it has to know this group."""
        from pyparallel.comm.split import split_group  # which makes communicators of this class

        return split_group(self, self._group, color, key)

    def abort(self, cause: str) -> None:
        """See Communicator.abort; the peers get the backend's error, which carries no cause."""
        self._group.abort()

    def close(self) -> None:
        """See Communicator.close; a group that is not owned belongs to its maker and stays."""
        if self._owned and dist.is_initialized():
            dist.destroy_process_group(self._group)

    def _check_algorithm(self, what: str, algorithm: Algorithm) -> None:
        known: tuple[Algorithm, ...] = ("nccl",) if self._nccl else ()
        check_algorithm(what, algorithm, *known)

    def _operand(self, what: str, tensor: Tensor, op: Op, options: Any) -> tuple[Tensor, Any]:
        """What travels instead of the tensor, and the options with torch's reduction."""
        check_moved(what, self.device.type, tensor)
        check_reduction(what, op, tensor)
        if isinstance(op, Premultiplied):
            wide = tensor if self._nccl else _accumulator(tensor)
            options.reduceOp = dist.ReduceOp.SUM
            return wide * op.factor, options
        options.reduceOp = _REDUCE_OPS[op]
        if op == "mean" and self._nccl:
            options.reduceOp = dist.ReduceOp.AVG
        if self._nccl or op in ("max", "min"):
            return tensor, options
        return _accumulator(tensor), options

    def _result(self, tensor: Tensor, operand: Tensor, op: Op) -> Callable[[], object] | None:
        """What turns the operand into the result in `tensor`."""
        divide = op == "mean" and not self._nccl
        if operand is tensor and not divide:
            return None

        def finish() -> None:
            if divide:
                operand.div_(self.world_size)
            if operand is not tensor:
                tensor.view(-1).copy_(operand.view(-1))

        return finish


def _accumulator(tensor: Tensor) -> Tensor:
    """The tensor, or 16-bit floats as float32."""
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return tensor.float()
    return tensor
