"""Compression for torch's DistributedDataParallel: hooks for register_comm_hook().

    model = DistributedDataParallel(module)
    model.register_comm_hook(hooks.State(model, TopK(ratio=0.02)), hooks.top_k)

Buckets are compressed and sent while backward goes on. The later stages of all of them run when the
last one has come, so their futures are completed then, in order; DDP asks for them afterwards.
"""

# DDP compares the annotations of a hook with its classes: they may not be strings in this file.

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from pyparallel.comm.communicator import Work
from pyparallel.comm.compression import (
    BF16,
    FP16,
    Compressor,
    Int8,
    PowerSGD,
    Scheme,
    Slot,
    TopK,
)
from pyparallel.comm.torch_group import GroupCommunicator

TensorFuture = torch.futures.Future[Tensor]


class State:
    """What a hook keeps between buckets and steps: the first argument of register_comm_hook().

    One State belongs to one model.
    """

    def __init__(self, model: DistributedDataParallel, scheme: Scheme | None = None) -> None:
        """Reads the model's process group, device and parameter names.

        Args:
            model: that the hook is registered with.
            scheme: of the hook's kind, with options; default: the hook's own.

        Raises:
            TypeError: something other than a DistributedDataParallel.
        """
        if not isinstance(model, DistributedDataParallel):
            raise TypeError(
                f"State takes the DistributedDataParallel that the hook serves, not {model!r}"
            )
        named = dict(model.module.named_parameters())
        self._names = {id(param): name for name, param in named.items()}
        self._params = tuple(named.values())  # kept alive, so that no id is used twice
        device = next(iter(named.values())).device
        self._communicator = GroupCommunicator(model.process_group, device)
        self._scheme = scheme
        self._compressor: Compressor[Any] | None = None
        self._slots: dict[tuple[int, ...], tuple[Slot, ...]] = {}
        self._waiting: list[torch.futures.Future[None]] = []
        self._loaded: Mapping[str, Any] = {}

    def compressor(self, default: Scheme) -> Compressor[Any]:
        """The compressor of a hook whose scheme is of `default`'s kind.

        Raises:
            TypeError: this state's scheme is of another kind, with both.
        """
        if self._scheme is None:
            self._scheme = default
        if type(self._scheme) is not type(default):
            raise TypeError(
                f"this hook does {type(default).__name__}, its state was made for {self._scheme}"
            )
        if self._compressor is None:
            self._compressor = self._scheme.over(
                self._communicator, names=set(self._names.values())
            )
            if self._loaded:
                self._compressor.load_state_dict(self._loaded)
        return self._compressor

    def state_dict(self) -> dict[str, Any]:
        """See Compressor.state_dict; before the first backward what was loaded, or nothing."""
        return dict(self._loaded) if self._compressor is None else self._compressor.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """See Compressor.load_state_dict; before the first backward it is checked in that."""
        if self._compressor is None:
            self._loaded = state_dict
        else:
            self._compressor.load_state_dict(state_dict)

    def reduce(self, bucket: GradBucket, default: Scheme) -> TensorFuture:
        """The future of the bucket's mean over all ranks."""
        flat = bucket.buffer()
        compressor = self.compressor(default)
        work = compressor.all_reduce(flat, bucket=bucket.index(), slots=self._slots_of(bucket))
        # An exception set on a future ends the process in DDP's reducer; one raised in then() is
        # raised by backward.
        begun = torch.futures.Future[None](
            devices=[flat.device] if flat.device.type == "cuda" else None
        )
        result = begun.then(partial(_finish, work, flat))
        self._waiting.append(begun)
        if bucket.is_last():
            compressor.finish()  # here: each future's callback has a CUDA stream of its own
            waiting, self._waiting = self._waiting, []
            for begun in waiting:
                begun.set_result(None)
        return result

    def _slots_of(self, bucket: GradBucket) -> tuple[Slot, ...]:
        params, gradients = bucket.parameters(), bucket.gradients()
        begin = int(bucket.buffer().storage_offset())
        key = tuple(map(id, params))
        if key not in self._slots:
            if not self._names.keys() >= set(key):
                raise ValueError("the hook's State was made for another model than this bucket's")
            self._slots[key] = tuple(
                Slot.of(self._names[id(param)], int(gradient.storage_offset()) - begin, gradient)
                for param, gradient in zip(params, gradients, strict=True)
            )
        return self._slots[key]


def fp16(state: State, bucket: GradBucket) -> TensorFuture:
    """Gradients travel as float16. See pyparallel.comm.compression.FP16."""
    return state.reduce(bucket, FP16())


def bf16(state: State, bucket: GradBucket) -> TensorFuture:
    """Gradients travel as bfloat16. See pyparallel.comm.compression.BF16."""
    return state.reduce(bucket, BF16())


def int8(state: State, bucket: GradBucket) -> TensorFuture:
    """Gradients travel as 8-bit integers. See pyparallel.comm.compression.Int8."""
    return state.reduce(bucket, Int8())


def top_k(state: State, bucket: GradBucket) -> TensorFuture:
    """The largest elements travel. See pyparallel.comm.compression.TopK."""
    return state.reduce(bucket, TopK())


def power_sgd(state: State, bucket: GradBucket) -> TensorFuture:
    """Low-rank factors travel. See pyparallel.comm.compression.PowerSGD."""
    return state.reduce(bucket, PowerSGD())


def _finish(work: Work, flat: Tensor, _: object) -> Tensor:
    work.wait()
    return flat
