"""HierarchicalCommunicator: shared memory inside each host, Gloo between the hosts."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyparallel.comm._flight_log import Record
from pyparallel.comm._flight_recorder import FlightRecorder
from pyparallel.comm._operands import (
    algorithms_of,
    check_algorithm,
    check_moved,
    check_only_root,
    check_operands,
    check_parts,
    check_peer,
    check_reduction,
    check_root,
    check_sizes,
)
from pyparallel.comm.communicator import Algorithm, Communicator, Op, Work
from pyparallel.comm.hierarchical import moves, sums
from pyparallel.comm.hierarchical.failures import Failures
from pyparallel.comm.hierarchical.lane import Lane, LaneWork
from pyparallel.comm.hierarchical.layout import Layout
from pyparallel.comm.hierarchical.messages import Messages
from pyparallel.comm.shm import ShmCommunicator

Split = Callable[[Communicator, int | None, int], Communicator | None]


class HierarchicalCommunicator:
    """Operations between ranks of several hosts, for tensors on the CPU.

    They run one after the other in a thread of this communicator, so all of them make progress in
    the background. The result of a reduction is the same bits on all ranks; it depends on ranks and
    hosts only, never on timing.

    Attributes:
        parts: the communicators that split() has made of it and that are in use.
        own: the communicator of this host's ranks.
    """

    def __init__(
        self, layout: Layout, failures: Failures, flights: FlightRecorder, split: Split
    ) -> None:
        """Use pyparallel.init() to get one, or rendezvous.connect()."""
        self.rank = layout.rank
        self.world_size = len(layout.hosts.host_of)
        self.parts: weakref.WeakSet[Communicator] = weakref.WeakSet()
        self.own = layout.own
        self._layout = layout
        self._failures = failures
        self._split = split
        self._process = os.getpid()
        self._flights = flights
        self._lane = Lane(failures.explain, flights.log)
        self._messages = Messages(layout, failures.explain, flights.log)
        if isinstance(self.own, ShmCommunicator):
            flights.add(self._record_of_host)
        failures.on_end(self._end)

    def connect(self, connect: Callable[[], object]) -> None:
        """Runs what connects the hosts; a rank that is lost meanwhile is named at once."""
        self._submit("init", connect).wait()

    def all_reduce(
        self,
        tensor: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
    ) -> LaneWork:
        """See Communicator.all_reduce; `algorithm` is that inside each host."""
        self._check_reduction("all_reduce", op, algorithm, tensor)
        return self._submit(
            "all_reduce", lambda: sums.all_reduce(self._layout, tensor, op, algorithm), tensor
        )

    def reduce(
        self, tensor: Tensor, root: int = 0, op: Op = "sum", *, background: bool = True
    ) -> LaneWork:
        """See Communicator.reduce."""
        self._check_reduction("reduce", op, "auto", tensor)
        check_root(root, self.world_size, what="reduce")
        return self._submit("reduce", lambda: sums.reduce(self._layout, tensor, root, op), tensor)

    def reduce_scatter(
        self,
        output: Tensor,
        input: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
    ) -> LaneWork:
        """See Communicator.reduce_scatter; `algorithm` is that inside each host."""
        self._check_reduction("reduce_scatter", op, algorithm, output, input)
        check_parts("reduce_scatter", self.world_size, whole=input, part=output)
        return self._submit(
            "reduce_scatter",
            lambda: sums.reduce_scatter(self._layout, output, input, op, algorithm),
            output,
            input,
        )

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> LaneWork:
        """See Communicator.all_gather."""
        check_moved("all_gather", "cpu", output, input)
        check_parts("all_gather", self.world_size, whole=output, part=input)
        return self._submit(
            "all_gather", lambda: moves.all_gather(self._layout, output, input), output, input
        )

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> LaneWork:
        """See Communicator.broadcast."""
        check_moved("broadcast", "cpu", tensor)
        check_root(root, self.world_size)
        return self._submit(
            "broadcast", lambda: moves.broadcast(self._layout, tensor, root), tensor
        )

    def gather(
        self, output: Tensor | None, input: Tensor, root: int = 0, *, background: bool = True
    ) -> LaneWork:
        """See Communicator.gather."""
        check_root(root, self.world_size, what="gather")
        check_only_root("gather", output, name="output", rank=self.rank, root=root)
        tensors = [input] if output is None else [output, input]
        check_moved("gather", "cpu", *tensors)
        if output is not None:
            check_parts("gather", self.world_size, whole=output, part=input)
        return self._submit(
            "gather", lambda: moves.gather(self._layout, output, input, root), *tensors
        )

    def scatter(
        self, output: Tensor, input: Tensor | None, root: int = 0, *, background: bool = True
    ) -> LaneWork:
        """See Communicator.scatter."""
        check_root(root, self.world_size, what="scatter")
        check_only_root("scatter", input, name="input", rank=self.rank, root=root)
        tensors = [output] if input is None else [output, input]
        check_moved("scatter", "cpu", *tensors)
        if input is not None:
            check_parts("scatter", self.world_size, whole=input, part=output)
        return self._submit(
            "scatter", lambda: moves.scatter(self._layout, output, input, root), *tensors
        )

    def all_to_all(
        self,
        output: Tensor,
        input: Tensor,
        *,
        output_sizes: Sequence[int] | None = None,
        input_sizes: Sequence[int] | None = None,
        background: bool = True,
    ) -> LaneWork:
        """See Communicator.all_to_all."""
        check_moved("all_to_all", "cpu", output, input)
        to = check_sizes("all_to_all", self.world_size, output, output_sizes, name="output_sizes")
        of = check_sizes("all_to_all", self.world_size, input, input_sizes, name="input_sizes")
        return self._submit(
            "all_to_all",
            lambda: moves.all_to_all(self._layout, output, input, to, of),
            output,
            input,
        )

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> Work:
        """See Communicator.send; `tag` is at most 2^30 - 2."""
        check_moved("send", "cpu", tensor)
        check_peer("send", destination, rank=self.rank, world_size=self.world_size)
        self._check_usable()
        return self._messages.send(tensor, destination, tag)

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> Work:
        """See Communicator.recv; `tag` is at most 2^30 - 2."""
        check_moved("recv", "cpu", tensor)
        if source is not None:
            check_peer("recv", source, rank=self.rank, world_size=self.world_size)
        self._check_usable()
        return self._messages.recv(tensor, source, tag)

    def barrier(self) -> LaneWork:
        """See Communicator.barrier."""
        return self._submit("barrier", lambda: moves.barrier(self._layout))

    def split(self, color: int | None, key: int = 0) -> Communicator | None:
        """See Communicator.split: a part on one host is in shared memory alone."""
        self._check_usable()
        part = self._split(self, color, key)
        if part is not None:
            self.parts.add(part)
        return part

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See Communicator.empty: in this host's shared memory."""
        return self._layout.own.empty(*shape, dtype=dtype)

    @property
    def error(self) -> BaseException | None:
        """What every operation ends with from now on; None while all is well."""
        return self._failures.error

    def flight_record(self) -> Record:
        """The last operations of every rank and whom each waits for; see pyparallel.comm.flight.

        Its ``host`` is the record of this host's shared memory, among it messages and the stages
        of operations. Synchronises nobody: ranks that hang answer, too. Waits for one that does
        not, about 1 s.
        """
        return self._flights.record()

    def abort(self, cause: str) -> None:
        """See Communicator.abort."""
        self._failures.abort(cause, self._lane.current)

    def close(self) -> None:
        """See Communicator.close. Tensors from empty() stay valid; calling it twice is harmless."""
        if os.getpid() == self._process:
            self._failures.close(ValueError("the communicator is closed"))
            self._layout.own.close()

    def _record_of_host(self) -> Record:
        assert isinstance(self.own, ShmCommunicator)
        members = self._layout.hosts.ranks[self._layout.host]
        return {"host": {"members": list(members), **self.own.flight_record()}}

    def _submit(self, what: str, function: Callable[[], object], *tensors: Tensor) -> LaneWork:
        self._check_usable()
        return self._lane.submit(what, function, tensors)

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            raise ValueError(
                f"this communicator belongs to process {self._process}; a forked child (process "
                f"{os.getpid()}) cannot use it"
            )
        if self._failures.error is not None:
            raise self._failures.error

    def _check_reduction(self, what: str, op: Op, algorithm: Algorithm, *tensors: Tensor) -> None:
        check_operands(what, "cpu", *tensors)
        check_reduction(what, op, tensors[0])
        check_algorithm(what, algorithm, *algorithms_of("cpu"))

    def _end(self, error: BaseException) -> None:
        """Everything in flight ends with the error; nobody on this host waits for this rank."""
        self._lane.fail(error)
        self._messages.fail(error)
        self._layout.between.close()
        if not isinstance(error, ValueError):  # closed in good order
            self._layout.own.abort(str(error))
