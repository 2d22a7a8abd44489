"""SoloCommunicator: the world of one rank, so that no caller needs a special case."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm._buffers import zeros
from pyparallel.comm._operands import (
    algorithms_of,
    check_algorithm,
    check_measures,
    check_moved,
    check_only_root,
    check_operands,
    check_parts,
    check_peer,
    check_reduction,
    check_root,
    check_sizes,
    check_squares,
)
from pyparallel.comm.communicator import Algorithm, Op, Premultiplied
from pyparallel.errors import PeerFailedError


class DoneWork:
    """An operation that was completed when it was called."""

    __slots__ = ("ended_ns", "started_ns")

    def __init__(self) -> None:
        self.started_ns = self.ended_ns = time.monotonic_ns()

    def wait(self) -> None:
        """Returns at once."""

    def is_completed(self) -> bool:
        """True."""
        return True

    def exception(self) -> BaseException | None:
        """None."""
        return None


class SoloCommunicator:
    """Operations of a single rank: copies, or nothing at all."""

    rank = 0
    world_size = 1

    def __init__(self, device: torch.device) -> None:
        """Allocates on `device` in :meth:`empty`."""
        self.device = device
        self._failure: PeerFailedError | None = None

    def all_reduce(
        self,
        tensor: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
        squares: Tensor | None = None,
    ) -> DoneWork:
        """See Communicator.all_reduce, and NcclCommunicator.all_reduce for `squares`."""
        return self._combine("all_reduce", tensor, tensor, op, algorithm, squares)

    def reduce(
        self, tensor: Tensor, root: int = 0, op: Op = "sum", *, background: bool = True
    ) -> DoneWork:
        """See Communicator.reduce."""
        check_root(root, 1, what="reduce")
        return self._combine("reduce", tensor, tensor, op, "auto")

    def reduce_scatter(
        self,
        output: Tensor,
        input: Tensor,
        op: Op = "sum",
        *,
        algorithm: Algorithm = "auto",
        background: bool = True,
        squares: Tensor | None = None,
    ) -> DoneWork:
        """See Communicator.reduce_scatter, and all_reduce() for `squares`."""
        check_parts("reduce_scatter", 1, whole=input, part=output)
        return self._combine("reduce_scatter", output, input, op, algorithm, squares)

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> DoneWork:
        """See Communicator.all_gather."""
        return self._move("all_gather", output, input)

    def broadcast(self, tensor: Tensor, root: int = 0, *, background: bool = True) -> DoneWork:
        """See Communicator.broadcast."""
        check_root(root, 1)
        return self._move("broadcast", tensor, tensor)

    def gather(
        self, output: Tensor | None, input: Tensor, root: int = 0, *, background: bool = True
    ) -> DoneWork:
        """See Communicator.gather."""
        check_root(root, 1, what="gather")
        check_only_root("gather", output, name="output", rank=0, root=root)
        assert output is not None
        return self._move("gather", output, input)

    def scatter(
        self, output: Tensor, input: Tensor | None, root: int = 0, *, background: bool = True
    ) -> DoneWork:
        """See Communicator.scatter."""
        check_root(root, 1, what="scatter")
        check_only_root("scatter", input, name="input", rank=0, root=root)
        assert input is not None
        return self._move("scatter", output, input)

    def all_to_all(
        self,
        output: Tensor,
        input: Tensor,
        *,
        output_sizes: Sequence[int] | None = None,
        input_sizes: Sequence[int] | None = None,
        background: bool = True,
    ) -> DoneWork:
        """See Communicator.all_to_all."""
        check_sizes("all_to_all", 1, output, output_sizes, name="output_sizes")
        check_sizes("all_to_all", 1, input, input_sizes, name="input_sizes")
        return self._move("all_to_all", output, input)

    def send(self, tensor: Tensor, destination: int, *, tag: int = 0) -> NoReturn:
        """There is nobody to send to.

        Raises:
            ValueError: always.
        """
        check_peer("send", destination, rank=0, world_size=1)
        raise AssertionError

    def recv(self, tensor: Tensor, source: int | None, *, tag: int = 0) -> NoReturn:
        """There is nobody to receive from.

        Raises:
            ValueError: always.
        """
        if source is None:
            raise ValueError("recv: there is no other rank in a world of 1")
        check_peer("recv", source, rank=0, world_size=1)
        raise AssertionError

    def barrier(self) -> DoneWork:
        """See Communicator.barrier."""
        return self._done()

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """See Communicator.empty."""
        _tensors.dtype_code(dtype, what="empty: the tensor")
        return zeros(self.device, shape, dtype)

    def split(self, color: int | None, key: int = 0) -> SoloCommunicator | None:
        """See Communicator.split."""
        self._done()
        return None if color is None else SoloCommunicator(self.device)

    def abort(self, cause: str) -> None:
        """See Communicator.abort: what is called later raises."""
        if self._failure is None:
            message = f"rank 0 failed: {cause}"
            self._failure = PeerFailedError(message, 0, operation="", cause=cause)

    def close(self) -> None:
        """See Communicator.close."""

    def _combine(
        self,
        what: str,
        output: Tensor,
        input: Tensor,
        op: Op,
        algorithm: Algorithm,
        squares: Tensor | None = None,
    ) -> DoneWork:
        check_operands(what, self.device.type, output, input)
        check_reduction(what, op, input)
        check_algorithm(what, algorithm, *algorithms_of(self.device.type))
        if squares is not None:
            if self.device.type == "cuda":
                check_measures(what, algorithm)
            check_squares(what, squares, self.device.type, op, output, input)
        work = self._copy(output, input)
        if isinstance(op, Premultiplied):
            with _written(output) as memory:
                memory.mul_(op.factor)
        if squares is not None:
            with _written(squares) as memory:
                memory.copy_(_tensors.sum_of_squares([output.detach()]))
        return work

    def _move(self, what: str, output: Tensor, input: Tensor) -> DoneWork:
        check_moved(what, self.device.type, output, input)
        check_parts(what, 1, whole=output, part=input)
        return self._copy(output, input)

    def _copy(self, output: Tensor, input: Tensor) -> DoneWork:
        work = self._done()
        if output is not input:
            with _written(output) as memory:
                memory.view(-1).copy_(input.detach().view(-1))
        return work

    def _done(self) -> DoneWork:
        if self._failure is not None:
            raise self._failure
        return DoneWork()


@contextmanager
def _written(tensor: Tensor) -> Iterator[Tensor]:
    """Its memory to write, also if it requires grad or was made in inference mode."""
    with torch.inference_mode(tensor.is_inference()):
        yield tensor.detach()
