"""Prefetcher: reads, prepares and moves batches while the loop computes."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch

from pyparallel import context
from pyparallel.data.cuda import CudaCopies
from pyparallel.data.iteration import Iteration, Way
from pyparallel.data.meter import Meter, Report
from pyparallel.data.resume import Position, restore, snapshot_of
from pyparallel.data.staging import Staged, Transport

Preprocess = Callable[[Any], Any]


class Prefetcher(Iterable[Any]):
    """The batches of a loader, some ahead of the loop.

    ``for batch in Prefetcher(loader)`` gives what ``for batch in loader`` gives, in its order:

        read        next(loader), in one thread
        preprocess  the given functions, in `workers` threads
        transport   into pinned memory, and from there to the device on a stream of its own
        loop        its stream waits for the copy; the host does not

    On the CPU there is no transport: the very batches of the loader come through. There each of
    these threads runs torch's operations on one core, for the loop computes on all.

    An exception of the loader or of a function is raised for the batch that it belongs to, after
    all batches before it. Each `iter()` begins the loader anew and ends the iteration before.
    Threads run only during an iteration: they end with it, with a break out of the loop, and with
    `close()`.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        device: torch.device | str | None = None,
        *,
        depth: int = 4,
        bytes: int | None = None,
        preprocess: Preprocess | Sequence[Preprocess] = (),
        workers: int = 1,
        transport: Transport | None = None,
    ) -> None:
        """Reads nothing until the first iteration.

        Args:
            loader: any iterable of pytrees. It must not write into batches that it has given.
            device: where the tensors are to be; default: that of pyparallel.init(), if it was
                called, else the CPU.
            depth: most batches in flight, from their reading to their delivery.
            bytes: most bytes in flight, each batch with the largest size that it had on its way; a
                larger one passes alone. What comes next is reckoned as large as the largest of
                late, so that growing batches may exceed it until they are known. Default: any.
            preprocess: applied to every batch, in turn. With several workers it runs for several
                batches at once.
            workers: threads for `preprocess`.
            transport: another way to the device.

        Raises:
            TypeError: a loader that is no iterable, or a function that is none.
            ValueError: numbers that make no sense, or a device that is neither cpu nor cuda.
        """
        if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
            raise TypeError(f"the loader is a {type(loader).__name__}, which is no iterable")
        functions = [preprocess] if callable(preprocess) else list(preprocess)
        for function in functions:
            if not callable(function):
                raise TypeError(f"preprocess: {function!r} is no function")
        if depth < 1:
            raise ValueError(f"depth: {depth} batches in flight; at least 1")
        if not 1 <= workers <= depth:
            raise ValueError(
                f"workers: {workers} threads for depth={depth} batches; 1 to {depth} have work"
            )
        if bytes is not None and bytes < 1:
            raise ValueError(f"bytes: {bytes} is no size of a batch")
        self.loader = loader
        self.device = _device(device)
        if transport is None and self.device.type == "cuda":
            transport = Staged(CudaCopies(self.device))
        self._way = Way(
            functions, workers, transport, depth, bytes, on_one_core=self.device.type == "cpu"
        )
        self._meter = Meter()
        self._position: Position | None = None
        self._begun: Position | None = None  # of the latest pass
        self._to_skip: int | None = None
        self._current: Callable[[], Iteration | None] = lambda: None
        self._is_closed = False
        if transport is not None:  # which iterations outlive their Prefetcher with
            self._release = weakref.finalize(self._way, _release, transport, os.getpid())

    def __iter__(self) -> Iterator[Any]:
        """Begins a pass over the loader; ends the one before.

        Raises:
            ValueError: after close(); or the loader is an iterator out of which an earlier pass,
                ended early, may have read batches that would be missing.
        """
        if self._is_closed:
            raise ValueError("this Prefetcher is closed")
        self._end_current("a new iteration of the same Prefetcher has begun")
        source = iter(self.loader)
        if source is self.loader:
            self._refuse_gaps()
        snapshot = snapshot_of(self.loader)
        batches = 0 if self._to_skip is None or self._position is None else self._position.batches
        self._position = self._begun = Position(batches, snapshot())
        number_to_skip, self._to_skip = self._to_skip or 0, None
        sources = [source]
        del source  # the reading thread is to be the only one that holds it
        iteration = Iteration(
            sources,
            self._way,
            number_to_skip=number_to_skip,
            snapshot=snapshot,
            position=self._position,
            meter=self._meter,
        )
        self._current = weakref.ref(iteration)
        return iteration

    def __len__(self) -> int:
        """The loader's number of batches; TypeError if it has none."""
        return len(self.loader)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the loop is: after the batch delivered last, however many have been read.

        A loader with ``state_dict()`` (torchdata's protocol) is asked for its own after each batch
        it reads; for others the batches are counted.
        """
        if self._position is None:
            return Position(0, snapshot_of(self.loader)()).state_dict()
        return self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Lets the next iteration go on where another was; ends the one before.

        Where the loader has no state of its own, the batches up to there are read again and
        dropped, without preprocessing; a warning says so. It must give the same batches again.

        Raises:
            ValueError: no state of a Prefetcher, or of a loader with state for one without.
        """
        position = Position.of(state)
        self._end_current("a state was loaded")
        self._to_skip = restore(self.loader, position)
        self._position = position
        if position.loader_state is not None:
            self._begun = None  # the loader went back, whatever was read out of it

    def report(self) -> Report:
        """Waits, queue and stages so far, and whether the loop is input bound."""
        transport = self._way.transport
        return self._meter.report(copied=None if transport is None else transport.copied())

    def close(self) -> None:
        """Ends the iteration, if there is one, and gives the staging memory back.

        Waits for its threads, but for no more than five seconds. Calling it twice is harmless.
        """
        self._is_closed = True
        self._end_current("its Prefetcher was closed")
        if self._way.transport is not None:
            self._release()

    def _end_current(self, reason: str) -> None:
        iteration = self._current()
        if iteration is not None:
            iteration.close(reason)
        self._current = lambda: None

    def _refuse_gaps(self) -> None:
        if self._begun is not None and not self._begun.is_whole:
            raise ValueError(
                "the loader is an iterator, of which an earlier pass, ended early, may have read "
                "more than it delivered. To go on with a pass keep its iterator, "
                "it = iter(prefetcher), and call next(it); to begin anew give an iterable"
            )


def _device(device: torch.device | str | None) -> torch.device:
    if device is None:
        current = context.current()
        return torch.device("cpu") if current is None else current.device
    chosen = torch.device(device)
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device: {chosen} is neither cpu nor cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {chosen}, but torch sees no CUDA device here")
    return chosen


def _release(transport: Transport, process: int) -> None:
    if os.getpid() == process:  # a forked child must not touch its parent's
        transport.close()
