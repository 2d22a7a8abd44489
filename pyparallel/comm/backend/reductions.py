"""Reductions as torch calls them: all_reduce, reduce, reduce_scatter and their coalesced forms."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from pyparallel.comm.backend.contiguous import (
    Finish,
    contiguous,
    in_turn,
    packed,
    writable,
)
from pyparallel.comm.backend.dispatch import Dispatcher, also, listed, only, routed
from pyparallel.comm.backend.options import reduce_op, root
from pyparallel.comm.backend.reduce_ops import combined, numbers, translated
from pyparallel.comm.communicator import Work


class Reductions(Dispatcher):
    """Operations that combine the ranks' tensors."""

    @routed
    def allreduce(
        self,
        tensors: Tensor | Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Every tensor becomes the ranks' combination of it."""
        tensors = listed(tensors)
        call = self._call(opts, timeout)
        parts, finishes = [], []
        for tensor in tensors:
            part, finish = self._all_reduce(tensor, reduce_op(opts), call.background)
            parts.append(part)
            finishes.append(finish)
        finish = in_turn(finishes)
        return self._issued("all_reduce", parts, tensors, finish, call)

    allreduce_coalesced = also(allreduce, "allreduce_coalesced")

    @routed
    def reduce(
        self,
        tensors: Tensor | Sequence[Tensor],
        opts: Any = None,
        op: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """The root's tensor becomes the ranks' combination."""
        tensor = only(tensors, what="reduce")
        call = self._call(opts, timeout)
        part, finish = self._reduce(
            tensor, root(opts), reduce_op(op if isinstance(opts, int) else opts), call.background
        )
        return self._issued("reduce", [part], [tensor], finish, call)

    @routed
    def reduce_scatter_single(
        self, output: Tensor, input: Tensor, opts: Any = None, timeout: timedelta | None = None
    ) -> Any:
        """The output becomes this rank's part of the combined inputs."""
        return self.reduce_scatter_single_coalesced([output], [input], opts, timeout)

    _reduce_scatter_base = also(reduce_scatter_single, "_reduce_scatter_base")

    @routed
    def reduce_scatter_single_coalesced(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """reduce_scatter_single for several pairs."""
        call = self._call(opts, timeout)
        parts, finishes = [], []
        for output, input in zip(outputs, inputs, strict=True):
            memory, finish = writable(output, what="reduce_scatter")
            source = contiguous(input, what="reduce_scatter")
            part, combine = self._reduce_scatter(memory, source, reduce_op(opts), call.background)
            parts.append(part)
            finishes += [combine, finish]
        finish = in_turn(finishes)
        return self._issued("reduce_scatter", parts, outputs, finish, call)

    reduce_scatter_tensor_coalesced = also(
        reduce_scatter_single_coalesced, "reduce_scatter_tensor_coalesced"
    )

    @routed
    def reduce_scatter(
        self,
        outputs: Tensor | Sequence[Tensor],
        inputs: Sequence[Any],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """The output becomes the ranks' combination of what each has for this rank."""
        output = only(outputs, what="reduce_scatter")
        for_ranks = inputs if isinstance(outputs, Tensor) else only(inputs, what="reduce_scatter")
        self._check_one_per_rank("reduce_scatter", for_ranks)
        call = self._call(opts, timeout)
        op = reduce_op(opts)
        if len({tensor.numel() for tensor in for_ranks}) == 1:
            memory, finish = writable(output, what="reduce_scatter")
            source = packed(for_ranks, what="reduce_scatter")
            part, combine = self._reduce_scatter(memory, source, op, call.background)
            parts, finishes = [part], [combine, finish]
        else:
            parts, finishes = self._uneven_reduce_scatter(output, for_ranks, op, call.background)
        finish = in_turn(finishes)
        return self._issued("reduce_scatter", parts, [output], finish, call)

    def _all_reduce(self, tensor: Tensor, op: Any, background: bool) -> tuple[Work, Finish | None]:
        memory, finish = writable(tensor, what="all_reduce")
        op = translated("all_reduce", op, tensor.dtype)
        if not callable(op):
            part = self.communicator.all_reduce(numbers(memory), op, background=background)
            return part, finish
        part, rows = self._rows(memory, background)
        return part, in_turn([lambda: _assign(memory, combined(rows, op)), finish])

    def _reduce(
        self, tensor: Tensor, root: int, op: Any, background: bool
    ) -> tuple[Work, Finish | None]:
        memory, finish = writable(tensor, what="reduce")
        op = translated("reduce", op, tensor.dtype)
        if self.communicator.rank != root:
            finish = None
        if not callable(op):
            part = self.communicator.reduce(numbers(memory), root, op, background=background)
            return part, finish
        part, rows = self._rows(memory, background)
        if self.communicator.rank != root:
            return part, None
        return part, in_turn([lambda: _assign(memory, combined(rows, op)), finish])

    def _reduce_scatter(
        self, output: Tensor, input: Tensor, op: Any, background: bool
    ) -> tuple[Work, Finish | None]:
        op = translated("reduce_scatter", op, input.dtype)
        if not callable(op):
            part = self.communicator.reduce_scatter(
                numbers(output), numbers(input), op, background=background
            )
            return part, None
        part, rows = self._rows(input, background)
        rank, numel = self.communicator.rank, output.numel()

        def finish() -> None:
            own = rows.view(len(rows), -1)[:, rank * numel : (rank + 1) * numel]
            _assign(output, combined(own, op))

        return part, finish

    def _uneven_reduce_scatter(
        self, output: Tensor, for_ranks: Sequence[Tensor], op: Any, background: bool
    ) -> tuple[list[Work], list[Finish | None]]:
        """A reduce to every rank, of copies: the inputs stay as they are."""
        parts: list[Work] = []
        finishes: list[Finish | None] = []
        for rank, tensor in enumerate(for_ranks):
            copy = tensor.detach().clone(memory_format=torch.contiguous_format)
            part, combine = self._reduce(copy, rank, op, background)
            parts.append(part)
            if rank == self.communicator.rank:
                finishes = [combine, lambda copy=copy: _assign(output, copy)]  # type: ignore[misc]
        return parts, finishes

    def _rows(self, tensor: Tensor, background: bool) -> tuple[Work, Tensor]:
        """All ranks' tensors, one in a row."""
        rows = torch.empty(self.communicator.world_size, *tensor.shape, dtype=tensor.dtype)
        return self.communicator.all_gather(rows, tensor, background=background), rows


def _assign(tensor: Tensor, values: Tensor) -> None:
    tensor.detach().copy_(values.view(tensor.shape))
