"""Operations that only move tensors: broadcast, all_gather, gather, scatter and all_to_all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from torch import Tensor

from pyparallel.comm.backend.contiguous import (
    Finish,
    check_list,
    contiguous,
    in_turn,
    packed,
    unpacked,
    writable,
)
from pyparallel.comm.backend.dispatch import Dispatcher, also, only, routed
from pyparallel.comm.backend.options import root
from pyparallel.comm.communicator import Work


class Movements(Dispatcher):
    """Operations after which ranks hold what others had."""

    @routed
    def broadcast(
        self,
        tensors: Tensor | Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Every rank's tensor becomes the root's."""
        tensor = only(tensors, what="broadcast")
        call = self._call(opts, timeout)
        memory, finish = writable(tensor, what="broadcast")
        part = self.communicator.broadcast(memory, root(opts), background=call.background)
        return self._issued("broadcast", [part], [tensor], finish, call)

    @routed
    def all_gather_single(
        self, output: Tensor, input: Tensor, opts: Any = None, timeout: timedelta | None = None
    ) -> Any:
        """The output becomes the ranks' inputs one after the other."""
        return self.all_gather_single_coalesced([output], [input], opts, timeout)

    _allgather_base = also(all_gather_single, "_allgather_base")

    @routed
    def all_gather_single_coalesced(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """all_gather_single for several pairs."""
        call = self._call(opts, timeout)
        parts, finishes = [], []
        for output, input in zip(outputs, inputs, strict=True):
            memory, finish = writable(output, what="all_gather")
            source = contiguous(input, what="all_gather")
            parts.append(self.communicator.all_gather(memory, source, background=call.background))
            finishes.append(finish)
        finish = in_turn(finishes)
        return self._issued("all_gather", parts, outputs, finish, call)

    allgather_into_tensor_coalesced = also(
        all_gather_single_coalesced, "allgather_into_tensor_coalesced"
    )

    @routed
    def allgather(
        self,
        outputs: Sequence[Any],
        inputs: Tensor | Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """The outputs become the ranks' inputs, which may differ in size."""
        input = only(inputs, what="all_gather")
        of_ranks = outputs if isinstance(inputs, Tensor) else only(outputs, what="all_gather")
        call = self._call(opts, timeout)
        parts, finish = self._all_gather(of_ranks, input, call.background)
        return self._issued("all_gather", parts, of_ranks, finish, call)

    @routed
    def allgather_coalesced(
        self,
        outputs: Sequence[Sequence[Tensor]],
        inputs: Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Allgather for several inputs; ``outputs[rank][k]`` becomes that rank's ``inputs[k]``."""
        call = self._call(opts, timeout)
        parts: list[Work] = []
        finishes: list[Finish | None] = []
        for of_ranks, input in zip(zip(*outputs, strict=True), inputs, strict=True):
            more, finish = self._all_gather(of_ranks, input, call.background)
            parts += more
            finishes.append(finish)
        results = [tensor for of_rank in outputs for tensor in of_rank]
        finish = in_turn(finishes)
        return self._issued("all_gather", parts, results, finish, call)

    @routed
    def gather(
        self,
        outputs: Sequence[Any],
        inputs: Tensor | Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """The root's outputs become the ranks' inputs."""
        input = only(inputs, what="gather")
        source = contiguous(input, what="gather")
        call = self._call(opts, timeout)
        of_ranks: Sequence[Tensor] = ()
        memory, finish = None, None
        if self.communicator.rank == root(opts):
            of_ranks = outputs if isinstance(inputs, Tensor) else only(outputs, what="gather")
            self._check_one_per_rank("gather", of_ranks, input)
            memory, finish = unpacked(of_ranks, what="gather")
        part = self.communicator.gather(memory, source, root(opts), background=call.background)
        return self._issued("gather", [part], of_ranks, finish, call)

    @routed
    def scatter(
        self,
        outputs: Tensor | Sequence[Tensor],
        inputs: Sequence[Any],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Every rank's output becomes what the root has for it."""
        output = only(outputs, what="scatter")
        memory, finish = writable(output, what="scatter")
        call = self._call(opts, timeout)
        source = None
        if self.communicator.rank == root(opts):
            for_ranks = inputs if isinstance(outputs, Tensor) else only(inputs, what="scatter")
            self._check_one_per_rank("scatter", for_ranks, output)
            source = packed(for_ranks, what="scatter")
        part = self.communicator.scatter(memory, source, root(opts), background=call.background)
        return self._issued("scatter", [part], [output], finish, call)

    @routed
    def all_to_all_single(
        self,
        output: Tensor,
        input: Tensor,
        output_split_sizes: Sequence[int] | None = None,
        input_split_sizes: Sequence[int] | None = None,
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Exchanges parts of dimension 0 with every rank; equal ones without sizes."""
        memory, finish = writable(output, what="all_to_all")
        source = contiguous(input, what="all_to_all")
        call = self._call(opts, timeout)
        part = self.communicator.all_to_all(
            memory,
            source,
            output_sizes=self._elements(output, output_split_sizes),
            input_sizes=self._elements(input, input_split_sizes),
            background=call.background,
        )
        return self._issued("all_to_all", [part], [output], finish, call)

    alltoall_base = also(all_to_all_single, "alltoall_base")

    @routed
    def alltoall(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor],
        opts: Any = None,
        timeout: timedelta | None = None,
    ) -> Any:
        """Output r becomes what rank r has for this rank; sizes may differ."""
        memory, finish = unpacked(outputs, what="all_to_all")
        call = self._call(opts, timeout)
        part = self.communicator.all_to_all(
            memory,
            packed(inputs, what="all_to_all"),
            output_sizes=[tensor.numel() for tensor in outputs],
            input_sizes=[tensor.numel() for tensor in inputs],
            background=call.background,
        )
        return self._issued("all_to_all", [part], outputs, finish, call)

    def _all_gather(
        self, of_ranks: Sequence[Tensor], input: Tensor, background: bool
    ) -> tuple[list[Work], Finish | None]:
        self._check_one_per_rank("all_gather", of_ranks)
        check_list([*of_ranks, input], what="all_gather")
        own = of_ranks[self.communicator.rank]
        if own.numel() != input.numel():
            raise ValueError(
                f"all_gather: this rank's input has {input.numel()} elements, "
                f"its place in the outputs {own.numel()}"
            )
        source = contiguous(input, what="all_gather")
        if len({tensor.numel() for tensor in of_ranks}) == 1:
            memory, finish = unpacked(of_ranks, what="all_gather")
            return [self.communicator.all_gather(memory, source, background=background)], finish
        parts, finishes = [], []
        for rank, tensor in enumerate(of_ranks):
            if rank == self.communicator.rank:
                tensor.detach().copy_(input)
            memory, finish = writable(tensor, what="all_gather")
            parts.append(self.communicator.broadcast(memory, rank, background=background))
            finishes.append(finish)
        return parts, in_turn(finishes)

    def _elements(self, tensor: Tensor, splits: Sequence[int] | None) -> list[int] | None:
        """The elements of the parts that dimension 0 is split into."""
        if not splits:
            ranks = self.communicator.world_size
            if tensor.dim() > 0 and tensor.shape[0] % ranks:
                raise ValueError(
                    f"all_to_all: dimension 0 of {tuple(tensor.shape)} is not {ranks} equal parts; "
                    "give split sizes"
                )
            return None
        if sum(splits) != (tensor.shape[0] if tensor.dim() else 0):
            raise ValueError(
                f"all_to_all: splits {list(splits)} sum to {sum(splits)}, dimension 0 of the "
                f"tensor has {tensor.shape[0] if tensor.dim() else 0}"
            )
        row = tensor.shape[1:].numel()
        return [split * row for split in splits]
