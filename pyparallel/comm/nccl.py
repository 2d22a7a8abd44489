"""NcclCommunicator: operations between GPUs through NCCL, on a stream of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store

from pyparallel import _tensors
from pyparallel._native import core
from pyparallel.comm import _operands as check
from pyparallel.comm._buffers import zeros
from pyparallel.comm._flight_log import Flight, Record
from pyparallel.comm._nccl_lanes import Issue, Lane, Message
from pyparallel.comm._nccl_members import Members
from pyparallel.comm._nccl_work import NcclWork
from pyparallel.comm.communicator import Algorithm, Op, Premultiplied
from pyparallel.errors import PyparallelError

_Result = TypeVar("_Result")
_ALGORITHMS: tuple[Algorithm, ...] = ("nccl", "ring", "direct")


class NcclCommunicator:
    """Operations between GPUs; the host waits for none of them.

    Each is enqueued on a stream of the communicator, behind what the current stream has been given;
    wait() makes the current stream wait. ``algorithm="ring"`` and ``"direct"`` are our own and
    depend on the ranks and their order alone; "nccl" and "auto" leave the order to NCCL, which
    rounds 16-bit sums on the way and factors to the dtype. Messages know no tags but 0 and come
    from a named rank.
    """

    @staticmethod
    def is_built() -> bool:
        """Whether this build of the core has CUDA, and with it NCCL."""
        return hasattr(core, "NcclCommunicator")

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world_size: int,
        device: torch.device,
        timeout_seconds: float,
    ) -> None:
        """Joins the other ranks; collective.

        Args:
            store: of this communicator alone (a PrefixStore).
            rank: of this process.
            world_size: number of ranks.
            device: of all tensors; no other rank has it, unless NCCL is told to allow that.
            timeout_seconds: deadline of this call and of every operation.

        Raises:
            NcclError: no NCCL, or it failed.
            CollectiveTimeoutError: a rank did not come.
            PeerLostError: it came, and died.
        """
        members = Members(store, rank, world_size, device, timeout_seconds)
        self._begin(members, members.join(store, rank, world_size))

    def _begin(self, members: Members, native: core.NcclCommunicator) -> None:
        self.rank, self.world_size = members.rank, members.world_size
        self.device = members.device
        self._members = members
        self._native = native
        self._lanes: dict[tuple[int, int], Lane] = {}
        self._in_flight: deque[NcclWork] = deque()
        self._splits = 0

    # ---- reductions ----

    def all_reduce(
        self,
        tensor: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
        squares: Tensor | None = None,
    ) -> NcclWork:
        """See Communicator.all_reduce.

        Args:
            tensor: see Communicator.all_reduce.
            op: see Communicator.all_reduce.
            algorithm: see Communicator.all_reduce.
            background: always.
            squares: of the algorithms "ring" and "direct": two float64 on the device, overwritten
                with the sum of squares of the part of the result that this rank has combined, and
                1.0 if something in it is not finite. Their sums over the ranks are those of all.
        """
        what = "all_reduce"
        name, factor, dtype = self._reduction(what, op, tensor)
        check.check_algorithm(what, algorithm, *_ALGORITHMS)
        measured = self._squares(what, squares, algorithm, op, tensor)
        operand = (tensor.data_ptr(), tensor.numel(), dtype, name, factor)
        if algorithm in ("auto", "nccl"):
            return self._issue(self._native.all_reduce, *operand, tensors=(tensor,))
        call, ring = self._native.own_all_reduce, algorithm == "ring"
        return self._issue(call, ring, *operand, measured, tensors=(tensor, squares))

    def reduce(
        self, tensor: Tensor, root: int = 0, op: Op = "sum", *, background: bool = True
    ) -> NcclWork:
        """See Communicator.reduce."""
        name, factor, dtype = self._reduction("reduce", op, tensor)
        check.check_root(root, self.world_size, what="reduce")
        operand = (tensor.data_ptr(), tensor.numel(), dtype, name, factor)
        tensors = (tensor,) if self.rank == root else (None, tensor)
        return self._issue(self._native.reduce, *operand, root, tensors=tensors)

    def reduce_scatter(
        self,
        output: Tensor,
        input: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
        squares: Tensor | None = None,
    ) -> NcclWork:
        """See Communicator.reduce_scatter, and all_reduce() for `squares`."""
        what = "reduce_scatter"
        name, factor, dtype = self._reduction(what, op, input, output)
        check.check_parts(what, self.world_size, whole=input, part=output)
        check.check_algorithm(what, algorithm, *_ALGORITHMS)
        measured = self._squares(what, squares, algorithm, op, output, input)
        operand = (output.data_ptr(), input.data_ptr(), output.numel(), dtype, name, factor)
        if algorithm in ("auto", "nccl"):
            return self._issue(self._native.reduce_scatter, *operand, tensors=(output, input))
        call, ring = self._native.own_reduce_scatter, algorithm == "ring"
        return self._issue(call, ring, *operand, measured, tensors=(output, input, squares))

    # ---- what only moves ----

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> NcclWork:
        """See Communicator.all_gather."""
        check.check_moved("all_gather", self.device.type, output, input)
        check.check_parts("all_gather", self.world_size, whole=output, part=input)
        arguments = (output.data_ptr(), input.data_ptr(), input.nbytes)
        return self._issue(self._native.all_gather, *arguments, tensors=(output, input))

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> NcclWork:
        """See Communicator.broadcast."""
        check.check_moved("broadcast", self.device.type, tensor)
        check.check_root(root, self.world_size)
        arguments = (tensor.data_ptr(), tensor.nbytes, root)
        return self._issue(self._native.broadcast, *arguments, tensors=(tensor,))

    def gather(
        self, output: Tensor | None, input: Tensor, root: int = 0, *, background: bool = True
    ) -> NcclWork:
        """See Communicator.gather."""
        check.check_root(root, self.world_size, what="gather")
        check.check_only_root("gather", output, name="output", rank=self.rank, root=root)
        tensors = [tensor for tensor in (output, input) if tensor is not None]
        check.check_moved("gather", self.device.type, *tensors)
        if output is not None:
            check.check_parts("gather", self.world_size, whole=output, part=input)
        target = 0 if output is None else output.data_ptr()
        arguments = (target, input.data_ptr(), input.nbytes, root)
        return self._issue(self._native.gather, *arguments, tensors=(output, input))

    def scatter(
        self, output: Tensor, input: Tensor | None, root: int = 0, *, background: bool = True
    ) -> NcclWork:
        """See Communicator.scatter."""
        check.check_root(root, self.world_size, what="scatter")
        check.check_only_root("scatter", input, name="input", rank=self.rank, root=root)
        tensors = [tensor for tensor in (output, input) if tensor is not None]
        check.check_moved("scatter", self.device.type, *tensors)
        if input is not None:
            check.check_parts("scatter", self.world_size, whole=input, part=output)
        source = 0 if input is None else input.data_ptr()
        arguments = (output.data_ptr(), source, output.nbytes, root)
        return self._issue(self._native.scatter, *arguments, tensors=(output, input))

    def all_to_all(
        self,
        output: Tensor,
        input: Tensor,
        *,
        output_sizes: Sequence[int] | None = None,
        input_sizes: Sequence[int] | None = None,
        background: bool = True,
    ) -> NcclWork:
        """See Communicator.all_to_all."""
        what, size = "all_to_all", input.element_size()
        check.check_moved(what, self.device.type, output, input)
        coming = check.check_sizes(what, self.world_size, output, output_sizes, name="output_sizes")
        going = check.check_sizes(what, self.world_size, input, input_sizes, name="input_sizes")
        output_bytes, input_bytes = ([n * size for n in sizes] for sizes in (coming, going))
        arguments = (output.data_ptr(), input.data_ptr(), output_bytes, input_bytes)
        return self._issue(self._native.all_to_all, *arguments, tensors=(output, input))

    def barrier(self) -> NcclWork:
        """See Communicator.barrier: the current stream waits for all ranks' streams."""
        return self._issue(self._native.barrier, tensors=())

    # ---- messages ----

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> Message:
        """See Communicator.send."""
        self._check_message("send", tensor, destination, tag)
        operand = (tensor.data_ptr(), tensor.nbytes, 1)
        flight = self._members.flights.log.message("send", destination, tag)

        def issue(lane: core.NcclCommunicator, stream: int) -> NcclWork:
            native = _noted(flight, lane.send, *operand, stream)
            return self._track(native, (tensor,), None, stream)

        return self._submit(self.rank, destination, issue)

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> Message:
        """See Communicator.recv; the source is named."""
        if source is None:
            raise ValueError("recv: NCCL receives from a named rank, source is None")
        self._check_message("recv", tensor, source, tag)
        operand = (tensor.data_ptr(), tensor.nbytes, 0)
        flight = self._members.flights.log.message("recv", source, tag)

        def issue(lane: core.NcclCommunicator, stream: int) -> NcclWork:
            native = _noted(flight, lane.recv, *operand, stream)
            return self._track(native, (tensor,), tensor, stream)

        return self._submit(source, self.rank, issue)

    # ---- life ----

    def split(self, color: int | None, key: int = 0) -> NcclCommunicator | None:
        """See Communicator.split. Needs NCCL 2.18."""
        if color is not None and color < 0:
            raise ValueError(f"split: color {color} is negative; None takes no part")
        self._splits += 1
        native = self._call(lambda: self._native.split(-1 if color is None else color, key))
        if native is None:
            return None
        store = PrefixStore(f"split {self._splits}/{color}", self._members.store)
        timeout = self._members.timeout_seconds
        members = Members(store, native.rank, native.world_size, self.device, timeout, native)
        part = object.__new__(NcclCommunicator)
        part._begin(members, native)
        return part

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See Communicator.empty."""
        return zeros(self.device, shape, dtype)

    def flight_record(self) -> Record:
        """The last operations of every rank and whom each waits for; see pyparallel.comm.flight.

        Synchronises nobody: ranks that hang answer, too. Waits for one that does not, about 1 s.
        """
        return self._members.flights.record()

    def abort(self, cause: str) -> None:
        """See Communicator.abort."""
        self._members.fail(self._native.doing(), cause)

    def close(self) -> None:
        """See Communicator.close: waits until what is in flight has ended."""
        with suppress(PyparallelError, ValueError):
            self._native.finish()
        self._members.close()
        for lane in self._lanes.values():
            lane.fail(ValueError("this communicator is closed"))
        self._in_flight.clear()

    # ---- parts of the above ----

    def _reduction(
        self, what: str, op: Op, tensor: Tensor, *others: Tensor
    ) -> tuple[str, float | None, int]:
        dtype = check.check_operands(what, self.device.type, tensor, *others)
        op = check.check_reduction(what, op, tensor)
        return ("sum", op.factor, dtype) if isinstance(op, Premultiplied) else (op, None, dtype)

    def _squares(
        self, what: str, squares: Tensor | None, algorithm: Algorithm, op: Op, *tensors: Tensor
    ) -> int:
        if squares is None:
            return 0
        check.check_measures(what, algorithm)
        return check.check_squares(what, squares, self.device.type, op, *tensors)

    def _check_message(self, what: str, tensor: Tensor, peer: int, tag: int) -> None:
        check.check_moved(what, self.device.type, tensor)
        check.check_peer(what, peer, rank=self.rank, world_size=self.world_size)
        if tag != 0:
            raise ValueError(f"{what}: NCCL has no tags, tag is {tag}")

    def _issue(
        self,
        call: Callable[..., core.NcclWork],
        *arguments: object,
        tensors: tuple[Tensor | None, ...],
    ) -> NcclWork:
        """Calls the core behind the current stream. The first of the tensors is written."""
        _, stream = _tensors.device_and_stream(self.device)
        flight = self._members.flights.log.call(call.__name__.removeprefix("own_"))
        native = self._call(lambda: _noted(flight, call, *arguments, stream))
        return self._track(native, tensors, tensors[0] if tensors else None, stream)

    def _call(self, function: Callable[[], _Result]) -> _Result:
        try:
            return function()
        except Exception as error:
            self._members.tell(error)
            raise

    def _track(
        self,
        native: core.NcclWork,
        tensors: tuple[Tensor | None, ...],
        written: Tensor | None,
        stream: int,
    ) -> NcclWork:
        work = NcclWork(
            native,
            tensors,
            written=written,
            device=self.device,
            stream=stream,
            on_error=self._members.tell,
        )
        in_flight = self._in_flight
        if self.device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
            while in_flight and in_flight[0].native.completed:
                in_flight.popleft()
        in_flight.append(work)
        return work

    def _submit(self, source: int, destination: int, issue: Issue) -> Message:
        lane = self._lanes.get((source, destination))
        if lane is None:
            lane = Lane(lambda: self._members.join_lane(source, destination), self.device)
            self._lanes[source, destination] = lane
            self._members.on_end(lane.fail)
        message = Message(source, self._members.timeout_seconds, self._members.overdue)
        lane.submit(message, issue)
        return message


def _noted(flight: Flight, call: Callable[..., core.NcclWork], *arguments: object) -> core.NcclWork:
    """Issues what the flight record has: a call that connects ranks may hang in there."""
    try:
        flight.work = native = call(*arguments)
    except Exception:
        flight.failed = True
        raise
    return native
