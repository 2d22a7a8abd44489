"""ShmCommunicator: collectives between processes of one host through shared memory."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from weakref import WeakSet

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm import flight
from pyparallel.comm._buffers import shared_zeros
from pyparallel.comm._operands import (
    algorithms_of,
    check_algorithm,
    check_moved,
    check_only_root,
    check_operands,
    check_parts,
    check_reduction,
    check_root,
    check_sizes,
    check_squares,
)
from pyparallel.comm._retired import RETIRED
from pyparallel.comm._shm_work import ShmWork
from pyparallel.comm.communicator import Algorithm, Op
from pyparallel.comm.flight import Record
from pyparallel.comm.messages import Messages, ShmMessage
from pyparallel.comm.solo import SoloCommunicator

_KINDS = dict(core.Kind.__members__)
_REDUCTIONS = dict(core.Reduction.__members__)


class ShmCommunicator:
    """Collectives through shared memory; results are the same bits on all ranks and in every run.

    Tensors are contiguous, on the CPU. Reductions take float32, float64, bfloat16, float16 and the
    integers of up to 64 bits but uint16, uint32 and uint64. 16-bit floats are combined in float32:
    algorithm "direct" (which is what "auto" takes) adds in rank order and rounds once; "ring" adds
    part c of the tensor in the order c + 1, c + 2, ..., c and rounds at each rank.
    Tensors from :meth:`empty` are used where they lie; others pass through small bounce buffers.
    """

    def __init__(self, native: core.ShmCommunicator, *, rank: int, world_size: int) -> None:
        """Wraps a joined native communicator; use pyparallel.init() to get one."""
        self.rank = rank
        self.world_size = world_size
        self.timeout_seconds = native.timeout_seconds
        self.parts: WeakSet[ShmCommunicator] = WeakSet()  # that were split from it
        self._native = native
        self._in_flight: deque[ShmWork] = deque()
        self._messages = Messages(native, rank=rank, world_size=world_size)
        held = self._in_flight, self._messages.in_flight
        weakref.finalize(self, RETIRED.retire, native.peers, *held).atexit = False
        flight.dump_on_failure(native, rank=rank, world_size=world_size)

    def all_reduce(
        self,
        tensor: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
        squares: Tensor | None = None,
    ) -> ShmWork:
        """See Communicator.all_reduce.

        Args:
            tensor: see Communicator.all_reduce.
            op: see Communicator.all_reduce.
            algorithm: see Communicator.all_reduce.
            background: see Communicator.all_reduce.
            squares: of sums and means of floats: two float64, overwritten with the sum of squares
                of the part of the result that this rank has combined (its own part where every
                rank combines all), and 1.0 if something in it is not finite, else 0.0. Their sums
                over the ranks are those of all. There once the work has been waited for.
        """
        return self._combine(
            "all_reduce", tensor, tensor, tensor, op, algorithm, 0, background, squares
        )

    def reduce(
        self, tensor: Tensor, root: int = 0, op: Op = "sum", *, background: bool = True
    ) -> ShmWork:
        """See Communicator.reduce."""
        check_root(root, self.world_size, what="reduce")
        return self._combine("reduce", tensor, tensor, tensor, op, "auto", root, background)

    def reduce_scatter(
        self,
        output: Tensor,
        input: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
        squares: Tensor | None = None,
    ) -> ShmWork:
        """See Communicator.reduce_scatter, and all_reduce() for `squares`."""
        check_parts("reduce_scatter", self.world_size, whole=input, part=output)
        return self._combine(
            "reduce_scatter", output, input, output, op, algorithm, 0, background, squares
        )

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> ShmWork:
        """See Communicator.all_gather."""
        check_parts("all_gather", self.world_size, whole=output, part=input)
        return self._move("all_gather", output, input, input, 0, background)

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> ShmWork:
        """See Communicator.broadcast."""
        check_root(root, self.world_size)
        return self._move("broadcast", tensor, tensor, tensor, root, background)

    def gather(
        self, output: Tensor | None, input: Tensor, root: int = 0, *, background: bool = True
    ) -> ShmWork:
        """See Communicator.gather."""
        check_root(root, self.world_size, what="gather")
        check_only_root("gather", output, name="output", rank=self.rank, root=root)
        if output is not None:
            check_parts("gather", self.world_size, whole=output, part=input)
        return self._move("gather", output, input, input, root, background)

    def scatter(
        self, output: Tensor, input: Tensor | None, root: int = 0, *, background: bool = True
    ) -> ShmWork:
        """See Communicator.scatter."""
        check_root(root, self.world_size, what="scatter")
        check_only_root("scatter", input, name="input", rank=self.rank, root=root)
        if input is not None:
            check_parts("scatter", self.world_size, whole=input, part=output)
        return self._move("scatter", output, input, output, root, background)

    def all_to_all(
        self,
        output: Tensor,
        input: Tensor,
        *,
        output_sizes: Sequence[int] | None = None,
        input_sizes: Sequence[int] | None = None,
        background: bool = True,
    ) -> ShmWork:
        """See Communicator.all_to_all."""
        what = "all_to_all"
        check_moved(what, "cpu", output, input)
        expected = check_sizes(what, self.world_size, output, output_sizes, name="output_sizes")
        sent = check_sizes(what, self.world_size, input, input_sizes, name="input_sizes")
        dtype = _tensors.moved_dtype_code(input.dtype, what=f"{what}: the tensor")
        native = self._native.all_to_all(
            output.data_ptr(), input.data_ptr(), expected, sent, dtype, background
        )
        return self._track(native, written=output, read=input)

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> ShmMessage:
        """See Communicator.send."""
        return self._messages.send(tensor, destination, tag=tag)

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> ShmMessage:
        """See Communicator.recv."""
        return self._messages.recv(tensor, source, tag=tag)

    def barrier(self) -> ShmWork:
        """See Communicator.barrier."""
        return self._track(self._native.barrier(False))

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A zeroed tensor in shared memory, which collectives read and write without a copy.

        Not a collective: ranks may allocate differently. The memory is of
        ``pyparallel.memory.default_pool("shared")`` and goes back there with the tensor; so does
        what a failed operation used, once no other rank can touch it any more.

        Raises:
            OutOfMemoryError: with the bytes needed and available.
        """
        self._native.check_process()
        _tensors.dtype_code(dtype, what="empty: the tensor")
        RETIRED.sweep()
        return shared_zeros(shape, dtype)

    def split(self, color: int | None, key: int = 0) -> ShmCommunicator | SoloCommunicator | None:
        """See Communicator.split."""
        from pyparallel.comm.split import split_shared  # which makes communicators of this class

        part = split_shared(self, color, key)
        if isinstance(part, ShmCommunicator):
            self.parts.add(part)
        return part

    def go_before(self, other: ShmCommunicator) -> None:
        """Lets this one's collectives overtake the other's; see pyparallel.comm.ahead_of."""
        self._native.go_before(other._native)

    def flight_record(self) -> Record:
        """The last operations of every rank and whom each waits for; see pyparallel.comm.flight."""
        return flight.record(self._native, rank=self.rank, world_size=self.world_size)

    def abort(self, cause: str) -> None:
        """See Communicator.abort."""
        self._native.abort(cause)

    def close(self) -> None:
        """See Communicator.close. Tensors from empty() stay valid; calling it twice is harmless."""
        self._native.close()
        held = self._in_flight, self._messages.in_flight
        RETIRED.retire(self._native.peers, *held)
        RETIRED.sweep()
        for operations in held:
            operations.clear()

    def _combine(
        self,
        what: str,
        output: Tensor,
        input: Tensor,
        part: Tensor,
        op: Op,
        algorithm: Algorithm,
        root: int,
        background: bool,
        squares: Tensor | None = None,
    ) -> ShmWork:
        in_place = output is input  # each look at a tensor takes 50 to 100 ns
        dtype = check_operands(what, "cpu", *((input,) if in_place else (output, input)))
        check_reduction(what, op, input)
        if algorithm != "auto":
            check_algorithm(what, algorithm, *algorithms_of("cpu"))
        measured = 0 if squares is None else check_squares(what, squares, "cpu", op, output, input)
        name, factor = (op, 1.0) if isinstance(op, str) else ("premultiplied", op.factor)
        target = output.data_ptr()
        native = self._native.combine(
            _KINDS[what],
            target,
            target if in_place else input.data_ptr(),
            part.numel(),
            dtype,
            root,
            _REDUCTIONS[name],
            factor,
            algorithm == "ring",
            measured,
            background,
        )
        written = output if what != "reduce" or root == self.rank else None
        return self._track(native, written=written, read=input, squares=squares)

    def _move(
        self,
        what: str,
        output: Tensor | None,
        input: Tensor | None,
        part: Tensor,
        root: int,
        background: bool,
    ) -> ShmWork:
        if output is None or input is None or output is input:
            check_moved(what, "cpu", part)
        else:
            check_moved(what, "cpu", output, input)
        native = self._native.move(
            _KINDS[what],
            0 if output is None else output.data_ptr(),
            0 if input is None else input.data_ptr(),
            part.numel(),
            _tensors.moved_dtype_code(part.dtype, what=f"{what}: the tensor"),
            root,
            background,
        )
        written = output if what != "broadcast" or root != self.rank else None
        return self._track(native, written=written, read=input)

    def _track(
        self,
        native: core.Work,
        *,
        written: Tensor | None = None,
        read: Tensor | None = None,
        squares: Tensor | None = None,
    ) -> ShmWork:
        work = ShmWork(self._native, native, written, read, squares)
        in_flight = self._in_flight
        while in_flight and in_flight[0].native.succeeded:
            in_flight.popleft()
        in_flight.append(work)
        return work
