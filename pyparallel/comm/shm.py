"""ShmCommunicator: collectives between processes of one host through shared memory."""

from __future__ import annotations

from collections import deque
from math import prod

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm.communicator import Reduction

_REDUCTIONS = dict(core.Reduction.__members__)
_PLAIN = (Tensor, torch.nn.Parameter)


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

    def all_reduce(
        self, tensor: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> ShmWork:
        """See Communicator.all_reduce."""
        dtype = self._check("all_reduce", tensor)
        reduction = self._reduction("all_reduce", op, tensor)
        pointer, count = tensor.data_ptr(), tensor.numel()
        native = self._native.all_reduce(pointer, count, dtype, reduction, background)
        return self._track(native, (tensor,))

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> ShmWork:
        """See Communicator.broadcast."""
        dtype = self._check("broadcast", tensor)
        if not 0 <= root < self.world_size:
            raise ValueError(f"broadcast: root {root} is not in a world of {self.world_size}")
        pointer, count = tensor.data_ptr(), tensor.numel()
        native = self._native.broadcast(pointer, count, dtype, root, background)
        return self._track(native, (tensor,))

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> ShmWork:
        """See Communicator.all_gather."""
        dtype = self._check("all_gather", output, input)
        self._check_parts("all_gather", whole=output, part=input)
        native = self._native.all_gather(
            output.data_ptr(), input.data_ptr(), input.numel(), dtype, background
        )
        return self._track(native, (output, input))

    def reduce_scatter(
        self, output: Tensor, input: Tensor, op: Reduction = "sum", *, background: bool = True
    ) -> ShmWork:
        """See Communicator.reduce_scatter."""
        dtype = self._check("reduce_scatter", output, input)
        self._check_parts("reduce_scatter", whole=input, part=output)
        reduction = self._reduction("reduce_scatter", op, input)
        native = self._native.reduce_scatter(
            output.data_ptr(), input.data_ptr(), output.numel(), dtype, reduction, background
        )
        return self._track(native, (output, input))

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
        if any(size < 0 for size in shape):
            raise ValueError(f"empty: negative size in {shape}")
        num_bytes = prod(shape) * dtype.itemsize
        if num_bytes == 0:
            return torch.empty(*shape, dtype=dtype)
        return torch.frombuffer(self._native.allocate(num_bytes), dtype=dtype).view(*shape)

    def close(self) -> None:
        """See Communicator.close. Tensors from empty() stay valid; calling it twice is harmless."""
        self._native.close()
        self._in_flight.clear()

    def _check(self, what: str, *tensors: Tensor) -> int:
        for tensor in tensors:
            if tensor.device.type != "cpu":
                raise ValueError(
                    f"{what}: the tensor is on {tensor.device}, shared memory serves the CPU only"
                )
            if not tensor.is_contiguous() or type(tensor) not in _PLAIN:
                _tensors.check_memory(tensor, what=f"{what}: the tensor")
                if not tensor.is_contiguous():
                    raise ValueError(
                        f"{what}: the tensor of shape {tuple(tensor.shape)} with strides "
                        f"{tensor.stride()} is not contiguous"
                    )
            if tensor.dtype != tensors[0].dtype:
                raise ValueError(f"{what}: dtypes {tensors[0].dtype} and {tensor.dtype} differ")
        code = _tensors.DTYPE_CODES.get(tensors[0].dtype)
        if code is None:
            return _tensors.dtype_code(tensors[0].dtype, what=f"{what}: the tensor")
        return code

    def _reduction(self, what: str, op: str, tensor: Tensor) -> core.Reduction:
        reduction = _REDUCTIONS.get(op)
        if reduction is None:
            raise ValueError(f"{what}: op {op!r} is none of {', '.join(_REDUCTIONS)}")
        if op == "mean" and not tensor.dtype.is_floating_point:
            raise ValueError(
                f"{what}: the mean of {tensor.dtype} is not an integer; use op='sum' and divide"
            )
        return reduction

    def _check_parts(self, what: str, *, whole: Tensor, part: Tensor) -> None:
        if whole.numel() != part.numel() * self.world_size:
            raise ValueError(
                f"{what}: {whole.numel()} elements are not {self.world_size} ranks times "
                f"{part.numel()} elements"
            )

    def _track(self, native: core.Work, tensors: tuple[Tensor, ...]) -> ShmWork:
        work = ShmWork(self._native, native, tensors)
        in_flight = self._in_flight
        while in_flight and in_flight[0].native.completed:
            in_flight.popleft()
        in_flight.append(work)
        return work
