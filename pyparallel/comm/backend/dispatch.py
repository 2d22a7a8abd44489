"""How an operation of torch becomes works of our communicator, and these a work of torch."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from pyparallel.comm.backend.completer import Completer
from pyparallel.comm.backend.contiguous import Finish
from pyparallel.comm.backend.options import is_async, seconds
from pyparallel.comm.backend.works import DONE, CollectiveWork
from pyparallel.comm.communicator import Communicator, Work
from pyparallel.comm.cores import has_free_core

Method = TypeVar("Method", bound=Callable[..., Any])


class Call(NamedTuple):
    """How an operation is called.

    Attributes:
        asynchronous: whether the caller goes on before the result is there.
        seconds: the call's own deadline; 0 if it has none.
        background: whether it has to make progress while the caller does something else.
    """

    asynchronous: bool
    seconds: float
    background: bool


class Dispatcher:
    """Base of the operations' classes.

    Attributes:
        communicator: carries tensors on the CPU.
    """

    communicator: Communicator
    _local_ranks: int
    _completer: Completer
    _coalesced: list[CollectiveWork] | None
    _with_results_to_copy: deque[CollectiveWork]

    def device_group(self, device: torch.device) -> Any:
        """The process group of torch that carries tensors of an accelerator."""
        raise NotImplementedError

    def _call(self, options: Any, timeout: timedelta | None = None) -> Call:
        """How the caller wants the operation.

        A synchronous one runs in the caller. In a backward pass, where DistributedDataParallel
        starts its reductions, a free core decides, as it does for pyparallel.DataParallel.
        """
        asynchronous, deadline = is_async(options), seconds(options, timeout)
        if not asynchronous:
            return Call(False, deadline, deadline > 0)
        in_backward = torch._C._current_autograd_node() is not None
        return Call(True, deadline, not in_backward or has_free_core(self._local_ranks))

    def _issued(
        self,
        what: str,
        parts: Sequence[Work],
        outputs: Sequence[Any],
        finish: Finish | None,
        call: Call,
    ) -> Any:
        """The work of operations that have been started; a synchronous one is completed here."""
        if not call.asynchronous and not call.seconds:
            for part in parts:
                part.wait()
            if finish is not None:
                finish()
            self._copy_results()
            return DONE
        work = CollectiveWork(
            what,
            parts,
            outputs,
            finish,
            completer=self._completer,
            background=call.background,
            seconds=call.seconds,
        )
        self._copy_results()
        if finish is not None:
            self._with_results_to_copy.append(work)
        return self._in_flight(work)

    def _in_flight(self, work: CollectiveWork) -> CollectiveWork:
        if self._coalesced is not None:
            self._coalesced.append(work)
        return work

    def _check_one_per_rank(
        self, what: str, tensors: Sequence[Tensor], like: Tensor | None = None
    ) -> None:
        if len(tensors) != self.communicator.world_size:
            raise ValueError(
                f"{what}: {len(tensors)} tensors for {self.communicator.world_size} ranks"
            )
        for tensor in tensors:
            if like is not None and tensor.numel() != like.numel():
                raise ValueError(
                    f"{what}: tensors of {tensor.numel()} and {like.numel()} elements; "
                    "they have one size on all ranks"
                )

    def _copy_results(self) -> None:
        """Settles completed works that nobody waited for: their results are still to be copied."""
        for work in tuple(self._with_results_to_copy):
            if not work.is_completed():
                return
            with suppress(ValueError):  # another thread was first
                self._with_results_to_copy.remove(work)


def routed(method: Method, name: str = "") -> Method:
    """Hands a call whose tensors are on an accelerator to the process group of that device.

    Args:
        method: for tensors on the CPU.
        name: of the other group's method, where it is not this one's.
    """
    name = name or method.__name__

    @functools.wraps(method)
    def call(self: Dispatcher, *args: Any, **kwargs: Any) -> Any:
        for argument in args:
            tensor = argument
            while isinstance(tensor, (list, tuple)) and tensor:
                tensor = tensor[0]
            if isinstance(tensor, Tensor):
                if tensor.device.type == "cpu":
                    break
                return getattr(self.device_group(tensor.device), name)(*args, **kwargs)
        return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def also(method: Method, name: str) -> Method:
    """A routed method under another name of torch's, an older one for instance."""
    return cast("Method", routed(method.__wrapped__, name))  # type: ignore[attr-defined]


def listed(tensors: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """A bare tensor as a list of one."""
    return [tensors] if isinstance(tensors, Tensor) else tensors


def only(tensors: Tensor | Sequence[Any], *, what: str) -> Any:
    """The element of a list of one, torch's way to pass a tensor or the ranks' list of them."""
    if isinstance(tensors, Tensor):
        return tensors
    if len(tensors) != 1:
        raise ValueError(f"{what}: one tensor or list per process, not {len(tensors)}")
    return tensors[0]
