"""Compressor: the mean of a bucket over all ranks in fewer bytes, and what it remembers for that.

A lossy scheme keeps on every rank what it has dropped so far, the *error*, and adds it to the next
gradient (error feedback: Seide et al. 2014; Karimireddy et al. 2019, arXiv:1901.09847). So nothing
is lost, only late. After any number of steps, up to rounding,

    sum of the results + mean of the ranks' errors = sum of the true means
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from pyparallel.comm.communicator import Communicator, Work
from pyparallel.comm.compression.staged import StageQueue, Stages
from pyparallel.comm.compression.state import BucketState, Slot, TensorsByName

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
State = TypeVar("State", bound=BucketState)


class Scheme(Protocol):
    """A way to compress, with its options; frozen."""

    def over(
        self, communicator: Communicator, *, names: Collection[str] | None = None
    ) -> Compressor[Any]:
        """Makes the compressor that does it. See Compressor for the arguments."""


class Compressor(ABC, Generic[State]):
    """Averages buckets over all ranks with one scheme. Its calls are collective, in one order."""

    def __init__(
        self, scheme: Scheme, communicator: Communicator, names: Collection[str] | None
    ) -> None:
        """Allocates nothing yet.

        Args:
            scheme: what to do, with its options.
            communicator: between the ranks.
            names: of all parameters, to check what is loaded; None: not checked.
        """
        self.scheme = scheme
        self._communicator = communicator
        self._names = names
        self._states: dict[int, State] = {}
        self._queue = StageQueue()
        self._saved: dict[str, TensorsByName] = {}  # waits for the buckets of its parameters
        self._steps: Counter[int] = Counter()  # by bucket, since the start or the last load
        self._first_step = 0

    def all_reduce(
        self,
        flat: Tensor,
        *,
        bucket: int = 0,
        slots: Sequence[Slot] = (),
        background: bool = True,
    ) -> Work:
        """The mean of the ranks' buckets, in place and the same bits on all ranks.

        Works are waited for in the order in which they were made, the same on all ranks. One rank
        alone sends nothing and loses nothing.

        Args:
            flat: contiguous float32, bfloat16 or float16, the same size on all ranks.
            bucket: its number; a bucket's state belongs to it.
            slots: the parameters in it; default: one that fills it. Elements of no slot hold 0.
                When the slots change, the errors move along with their parameters.
            background: see Communicator.all_reduce.

        Raises:
            TypeError: another dtype.
            ValueError: memory with gaps, or several dimensions.
        """
        state = self.prepare(flat, bucket=bucket, slots=slots)
        step = self._first_step + self._steps[bucket]
        self._steps[bucket] += 1
        if state is None or not self._compresses(step):
            return self._communicator.all_reduce(flat, "mean", background=background)
        if state.work is not None and not state.work.is_completed():
            state.work.wait()  # its buffers are in use
        state.work = self._queue.start(self._stages(flat, state, background))
        return state.work

    def prepare(self, flat: Tensor, *, bucket: int = 0, slots: Sequence[Slot] = ()) -> State | None:
        """Allocates what all_reduce of this bucket needs; None if it travels as it is."""
        slots = tuple(slots) or (Slot(f"bucket {bucket}", 0, (flat.numel(),)),)
        if flat.dtype not in _DTYPES:
            raise TypeError(
                f"{type(self.scheme).__name__} compresses float32, bfloat16 and float16 gradients; "
                f"that of {slots[0].name!r} is {flat.dtype}"
            )
        if flat.dim() != 1 or not flat.is_contiguous():
            raise ValueError(
                f"a bucket is contiguous and has one dimension; that of {slots[0].name!r} has "
                f"shape {tuple(flat.shape)} and strides {flat.stride()}"
            )
        if self._communicator.world_size == 1 or flat.numel() == 0:
            return None
        state = self._states.get(bucket)
        if state is not None and state.slots != slots:
            self._release_states()
            state = None
        if state is None:
            state = self._new_state(flat, slots)
            if state is not None:
                state.adopt(self._saved)
                self._states[bucket] = state
        return state

    def finish(self) -> None:
        """Runs what is left of all works in flight. Their errors are raised by their own wait()."""
        self._queue.finish()

    def state_dict(self) -> dict[str, Any]:
        """What this rank needs to go on as if it had not been interrupted; finishes all works.

        It differs from rank to rank: every rank saves its own.
        """
        self.finish()
        tensors = {kind: dict(by_name) for kind, by_name in self._saved.items()}
        for state in self._states.values():
            _merge(tensors, state.tensors())
        return {
            **self._identity(),
            "step": self._first_step + max(self._steps.values(), default=0),
            "tensors": {
                kind: {name: tensor.clone() for name, tensor in by_name.items()}
                for kind, by_name in tensors.items()
            },
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Goes on where the rank stood that saved this; the buckets may be cut otherwise.

        Raises:
            ValueError: it belongs to another scheme, rank or world size, or to a parameter that is
                not there or of another size; with both values. Nothing has changed then.
        """
        for key, value in self._identity().items():
            if state_dict[key] != value:
                raise ValueError(
                    f"compression: the saved state is of {key} {state_dict[key]}, this is {value}"
                )
        saved = {kind: dict(by_name) for kind, by_name in state_dict["tensors"].items()}
        for kind, by_name in saved.items():
            for name in by_name:
                if self._names is not None and name not in self._names:
                    raise ValueError(
                        f"compression: the saved {kind} is of {name!r}, which the model lacks"
                    )
        for state in self._states.values():
            state.check(saved)
        self.finish()
        for state in self._states.values():
            state.reset()
            state.adopt(saved)
        self._saved = saved
        self._steps.clear()
        self._first_step = int(state_dict["step"])

    def _compresses(self, step: int) -> bool:
        """Whether the bucket's all_reduce of this number is compressed."""
        return True

    @abstractmethod
    def _new_state(self, flat: Tensor, slots: Sequence[Slot]) -> State | None:
        """What to keep of this bucket; None if compressing it would save nothing."""

    @abstractmethod
    def _stages(self, flat: Tensor, state: State, background: bool) -> Stages:
        """Compresses, exchanges and decompresses: yields each collective it has issued."""

    def _release_states(self) -> None:
        """The buckets were cut anew: what belongs to parameters waits for their new buckets."""
        self.finish()
        for state in self._states.values():
            _merge(self._saved, state.tensors())
        self._states.clear()

    def _identity(self) -> dict[str, Any]:
        return {
            "scheme": type(self.scheme).__name__,
            "rank": self._communicator.rank,
            "world_size": self._communicator.world_size,
        }


def _merge(into: dict[str, TensorsByName], more: Mapping[str, TensorsByName]) -> None:
    for kind, by_name in more.items():
        into.setdefault(kind, {}).update(by_name)
