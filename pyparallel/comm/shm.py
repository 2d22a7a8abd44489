"""ShmCommunicator: collectives between processes of one host through shared memory."""

from __future__ import annotations

from collections import deque
from math import prod

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm import flight
from pyparallel.comm._operands import (
    check_operands,
    check_parts,
    check_reduction,
    check_root,
    check_shape,
)
from pyparallel.comm.communicator import Reduction
from pyparallel.comm.flight import Record
from pyparallel.comm.messages import Messages, ShmMessage
from pyparallel.errors import OutOfMemoryError

_REDUCTIONS = dict(core.Reduction.__members__)


class ShmWork:
    """A collective in flight; keeps its tensors alive until it is completed.

    Attributes:
        native: start, end and waiting times in nanoseconds of time.monotonic_ns().
    """

    __slots__ = ("_communicator", "_tensors", "native")

    def __init__(
        self, communicator: core.ShmCommunicator, native: core.Work, tensors: tuple[Tensor, ...]
    ) -> None:
        self._communicator = communicator
        self._tensors = tensors  # the first is the one that is written
        self.native = native

    def wait(self) -> None:
        """Blocks until the result is there, running queued work in this thread if nobody else does.

        Raises:
            PeerLostError: a rank died or left.
            CollectiveMismatchError: ranks called different operations.
            CollectiveTimeoutError: a rank did not come in time.
        """
        self._communicator.wait(self.native)
        if self._tensors:
            torch.autograd.graph.increment_version(self._tensors[0])
            self._tensors = ()

    def is_completed(self) -> bool:
        """Whether wait() would return at once."""
        return self.native.completed

    def exception(self) -> BaseException | None:
        """The error of a completed collective, or None."""
        if not self.native.failed:
            return None
        try:
            self._communicator.wait(self.native)
        except Exception as error:
            return error
        return None


class ShmCommunicator:
    """Collectives through shared memory; results are the same bits on all ranks and in every run.

    Tensors are contiguous, on the CPU: float32, float64, bfloat16, float16 (16-bit floats are
    summed in float32 and rounded once), int32, int64; uint8 for everything but arithmetic means.
    Tensors from :meth:`empty` are reduced where they lie; others pass through small bounce buffers.
    """

    def __init__(self, native: core.ShmCommunicator, *, rank: int, world_size: int) -> None:
        """Wraps a joined native communicator; use pyparallel.init() to get one."""
        self.rank = rank
        self.world_size = world_size
        self._native = native
        self._in_flight: deque[ShmWork] = deque()
        self._messages = Messages(native, rank=rank, world_size=world_size)
        flight.dump_on_failure(native, rank=rank, world_size=world_size)

    def all_reduce(
        self, tensor: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> ShmWork:
        """See Communicator.all_reduce."""
        dtype = check_operands("all_reduce", "cpu", tensor)
        reduction = _REDUCTIONS[check_reduction("all_reduce", op, tensor)]
        pointer, count = tensor.data_ptr(), tensor.numel()
        native = self._native.all_reduce(pointer, count, dtype, reduction, background)
        return self._track(native, (tensor,))

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> ShmWork:
        """See Communicator.broadcast."""
        dtype = check_operands("broadcast", "cpu", tensor)
        check_root(root, self.world_size)
        pointer, count = tensor.data_ptr(), tensor.numel()
        native = self._native.broadcast(pointer, count, dtype, root, background)
        return self._track(native, (tensor,))

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> ShmWork:
        """See Communicator.all_gather."""
        dtype = check_operands("all_gather", "cpu", output, input)
        check_parts("all_gather", self.world_size, whole=output, part=input)
        native = self._native.all_gather(
            output.data_ptr(), input.data_ptr(), input.numel(), dtype, background
        )
        return self._track(native, (output, input))

    def reduce_scatter(
        self, output: Tensor, input: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> ShmWork:
        """See Communicator.reduce_scatter."""
        dtype = check_operands("reduce_scatter", "cpu", output, input)
        check_parts("reduce_scatter", self.world_size, whole=input, part=output)
        reduction = _REDUCTIONS[check_reduction("reduce_scatter", op, input)]
        native = self._native.reduce_scatter(
            output.data_ptr(), input.data_ptr(), output.numel(), dtype, reduction, background
        )
        return self._track(native, (output, input))

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> ShmMessage:
        """See Communicator.send."""
        return self._messages.send(tensor, destination, tag=tag)

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> ShmMessage:
        """See Communicator.recv."""
        return self._messages.recv(tensor, source, tag=tag)

    def barrier(self) -> ShmWork:
        """See Communicator.barrier."""
        return self._track(self._native.barrier(False), ())

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A zeroed tensor in shared memory, which collectives read and write without a copy.

        Not a collective: ranks may allocate differently. The memory goes back with the tensor.

        Raises:
            OutOfMemoryError: with the bytes needed and available.
        """
        _tensors.dtype_code(dtype, what="empty: the tensor")
        check_shape(shape)
        num_bytes = prod(shape) * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(shape, dtype=dtype)
        if num_bytes >> 63:  # more than the core can count
            available = core.available_memory()
            raise OutOfMemoryError(
                f"out of shared memory: {num_bytes} bytes needed, {available} bytes available",
                num_bytes,
                available,
            )
        return torch.frombuffer(self._native.allocate(num_bytes), dtype=dtype).view(shape)

    def flight_record(self) -> Record:
        """The last operations of every rank and whom each waits for; see pyparallel.comm.flight."""
        return flight.record(self._native, rank=self.rank, world_size=self.world_size)

    def abort(self, cause: str) -> None:
        """See Communicator.abort."""
        self._native.abort(cause)

    def close(self) -> None:
        """See Communicator.close. Tensors from empty() stay valid; calling it twice is harmless."""
        self._native.close()
        self._in_flight.clear()
        self._messages.clear()

    def _track(self, native: core.Work, tensors: tuple[Tensor, ...]) -> ShmWork:
        work = ShmWork(self._native, native, tensors)
        in_flight = self._in_flight
        while in_flight and in_flight[0].native.completed:
            in_flight.popleft()
        in_flight.append(work)
        return work
