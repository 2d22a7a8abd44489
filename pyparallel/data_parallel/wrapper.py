"""DataParallel: a one-line replacement of torch's DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pyparallel._tensors import check_memory
from pyparallel.comm.compression import Compression, Compressor, Scheme, scheme_of
from pyparallel.comm.cores import has_free_core
from pyparallel.context import context_of
from pyparallel.data_parallel.buckets import GradientBuckets
from pyparallel.data_parallel.verify import broadcast_tensors, signature, verify_signatures
from pyparallel.flat import FIRST_BUCKET_BYTES

_MIB = 1 << 20


class DataParallel(nn.Module):
    """Runs a module on every rank's own data and averages the gradients while backward goes on.

    Every rank starts from rank 0's parameters and buffers. After backward each ``.grad`` is the
    mean over all ranks and a view of a bucket that the communicator reduces without a copy.
    ``state_dict()`` has the wrapped module's own keys; ``load_state_dict()`` takes them with or
    without a ``module.`` prefix.

    Attributes:
        module: the wrapped module.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int | torch.device] | None = None,
        output_device: int | torch.device | None = None,
        *,
        broadcast_buffers: bool = True,
        process_group: dist.ProcessGroup | None = None,
        bucket_cap_mb: float = 25,
        find_unused_parameters: bool = False,
        gradient_as_bucket_view: bool = True,
        static_graph: bool = False,
        overlap: bool | Literal["auto"] = "auto",
        compression: Compression | None = None,
    ) -> None:
        """Wraps a module whose parameters are on one device. Synchronises all ranks.

        Args:
            module: the model; parameters must be the same on all ranks by name, shape and dtype.
            device_ids: as in DistributedDataParallel: None, or the one device of the module.
            output_device: likewise.
            broadcast_buffers: give every rank rank 0's buffers before a forward, except after one
                whose backward does not synchronise, as DistributedDataParallel does.
            process_group: of an initialised torch.distributed job; default: all ranks of init() or
                of that job.
            bucket_cap_mb: size of a bucket in MiB; the first has at most 1 MiB.
            find_unused_parameters: accept parameters that get no gradient in a backward.
            gradient_as_bucket_view: accepted; gradients always are views of their bucket.
            static_graph: accepted; nothing needs to be known beforehand.
            overlap: reduce while backward goes on (True), when it has ended (False), or as the
                free cores suggest ("auto").
            compression: of the gradients between ranks: "fp16", "bf16", "int8" or a scheme of
                pyparallel.comm.compression, the same on all ranks. See :attr:`compressor`.

        Raises:
            ValueError: parameters that differ between ranks (names the first and both sides), or on
                several devices; ranks with different compression.
            TypeError: a parameter without plain memory, or of a dtype that is not compressed.
            RuntimeError: no parameter needs a gradient.
        """
        super().__init__()
        params = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not params:
            raise RuntimeError(
                "no parameter of the module needs a gradient: nothing to parallelise"
            )
        self._device = _one_device(params, device_ids, output_device)
        self.module = module
        self._frozen = {name: p for name, p in module.named_parameters() if not p.requires_grad}
        self._broadcast_buffers = broadcast_buffers
        self._find_unused = find_unused_parameters
        self._synchronise = True  # what no_sync() turns off
        self._reducing = True  # the same at the time of the last forward, which is what counts
        self._in_backward = False
        self._buffers_are_due = True
        scheme = None if compression is None else scheme_of(compression)
        self._context = context_of(process_group)
        self._join(bucket_cap_mb, overlap, scheme)
        for index, param in enumerate(params.values()):
            _on_gradient(param, partial(self._arrive, index))
        self.register_load_state_dict_pre_hook(_accept_both_prefixes)  # type: ignore[no-untyped-call]

    def _join(
        self, bucket_cap_mb: float, overlap: bool | Literal["auto"], scheme: Scheme | None
    ) -> None:
        communicator = self._context.communicator
        own = [["compression", str(scheme)], *signature(self.module)]
        verify_signatures(own, communicator, self._device)
        if communicator.world_size > 1:
            broadcast_tensors([*self.module.parameters(), *self.module.buffers()], communicator)
        params = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._buckets = GradientBuckets(
            params,
            communicator,
            bucket_bytes=int(bucket_cap_mb * _MIB),
            first_bucket_bytes=min(FIRST_BUCKET_BYTES, int(bucket_cap_mb * _MIB)),
            background=overlap
            if overlap != "auto"
            else self._device.type == "cuda" or has_free_core(),
            compression=scheme,
        )

    @property
    def compressor(self) -> Compressor[Any] | None:
        """What compresses the gradients, or None.

        Its ``state_dict()`` holds what this rank has not sent yet, which differs between ranks:
        with it in the checkpoint of every rank a resumed run goes on exactly.
        """
        return self._buckets.compressor

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's forward, after rank 0's buffers have been handed round."""
        self._reducing = self._synchronise
        if self._in_backward and torch._C._current_graph_task_id() == -1:  # that backward raised
            self._in_backward = False
            self._buckets.reset()
        for name, param in self._frozen.items():
            if param.requires_grad:
                raise RuntimeError(
                    f"parameter {name!r} was frozen when its module was wrapped, its gradients "
                    "would not be averaged; wrap the module again after unfreezing it"
                )
        communicator = self._context.communicator
        if self._broadcast_buffers and self._buffers_are_due and communicator.world_size > 1:
            broadcast_tensors(self.module.buffers(), communicator)
        # As in DistributedDataParallel: after a forward whose backward synchronises.
        self._buffers_are_due = torch.is_grad_enabled() and self._synchronise
        return self.module(*args, **kwargs)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within it gradients accumulate on this rank only; forward and backward both go inside."""
        before, self._synchronise = self._synchronise, False
        try:
            yield
        finally:
            self._synchronise = before

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The wrapped module's state_dict: no prefix."""
        return self.module.state_dict(*args, **kwargs)

    def _arrive(self, index: int) -> None:
        if not self._reducing:
            return
        if not self._in_backward:
            self._in_backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        self._buckets.arrive(index)

    def _finish(self) -> None:
        self._in_backward = False
        self._buckets.finish(find_unused=self._find_unused)


def _on_gradient(param: Tensor, call: Callable[[], None]) -> None:
    param.register_post_accumulate_grad_hook(lambda _: call())  # type: ignore[no-untyped-call]


def _one_device(
    params: Mapping[str, Tensor],
    device_ids: list[int | torch.device] | None,
    output_device: int | torch.device | None,
) -> torch.device:
    first_name, first = next(iter(params.items()))
    for name, param in params.items():
        check_memory(param.detach(), what=f"parameter {name!r}")
        if param.device != first.device:
            raise ValueError(
                f"parameter {name!r} is on {param.device}, {first_name!r} on {first.device}: "
                "DataParallel wraps a module on one device"
            )
    for given in [*(device_ids or []), *([] if output_device is None else [output_device])]:
        device = torch.device("cuda", given) if isinstance(given, int) else torch.device(given)
        if device != first.device:
            raise ValueError(
                f"device_ids or output_device says {device}, the module is on {first.device}"
            )
    return first.device


def _accept_both_prefixes(
    wrapper: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: Mapping[str, Any],
    *_: object,
) -> None:
    """Keys of the wrapped module get the prefix under which torch looks for it."""
    assert isinstance(wrapper, DataParallel)
    if local_metadata.get("assign_to_params_buffers"):
        raise ValueError(
            "load_state_dict(assign=True) would replace the parameters whose gradients "
            "DataParallel averages; load before wrapping, or without assign"
        )
    keys = list(wrapper.module.state_dict())
    plain = [key for key in keys if prefix + key in state_dict]
    # A module may itself have a part called "module": what fits more keys is meant.
    if len(plain) > sum(prefix + "module." + key in state_dict for key in keys):
        moved = {prefix + "module." + key: state_dict.pop(prefix + key) for key in plain}
        state_dict.update(moved)
