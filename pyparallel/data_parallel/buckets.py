"""The life of the gradient buckets: filled by backward, packed once, reduced, seen again as .grad.

hook of a parameter -> its bucket counts it -> a full bucket is packed -> all_reduce(mean)
end of backward     -> what is missing is completed -> works are waited for -> .grad are views
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel.comm import Communicator, Work
from pyparallel.comm.compression import Compressor, Scheme, Slot
from pyparallel.flat import FlatLayout
from pyparallel.monitor import SPANS


class LiveBucket:
    """One bucket and what has arrived in it during this backward.

    Attributes:
        flat: its slice of the gradient plane; reduced as a whole.
        members: indices of its parameters, in layout order.
        views: their places in the plane.
        offsets: their first elements in `flat`.
        slots: the same with names and shapes, for a compressor.
        arrived: members whose gradient is complete.
    """

    def __init__(
        self,
        flat: Tensor,
        members: Sequence[int],
        views: list[Tensor],
        begin: int,
        names: Sequence[str],
    ) -> None:
        self.flat = flat
        self.members = tuple(members)
        self.views = views
        self.offsets = [int(view.storage_offset()) - begin for view in views]
        self.slots = tuple(map(Slot.of, names, self.offsets, views))
        self.arrived: set[int] = set()


class GradientBuckets:
    """Averages the gradients of all ranks, bucket by bucket, in the order of backward.

    Afterwards every ``.grad`` is a view of its bucket: there is no second copy, and a backward that
    accumulates writes straight into the bucket.

    Attributes:
        compressor: what averages the buckets; None: the communicator itself.
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        communicator: Communicator,
        *,
        bucket_bytes: int,
        first_bucket_bytes: int,
        background: bool,
        compression: Scheme | None = None,
    ) -> None:
        """Allocates the gradient planes from the communicator, and what compressing them needs.

        Args:
            params: all that need gradients, by name, in the order of their use; on one device.
            communicator: between the ranks.
            bucket_bytes: cap of a bucket.
            first_bucket_bytes: cap of the first.
            background: reduce while backward goes on; otherwise when backward has ended.
            compression: of what travels; None: buckets travel as they are.

        Raises:
            TypeError: gradients of a dtype that is not compressed.
        """
        self._communicator = communicator
        self._background = background
        self._names = list(params)
        self._params = list(params.values())
        self._buckets: list[LiveBucket] = []
        for dtype in dict.fromkeys(param.dtype for param in self._params):
            indices = [i for i, param in enumerate(self._params) if param.dtype == dtype]
            layout = FlatLayout(
                [self._params[i] for i in indices],
                bucket_bytes=bucket_bytes,
                first_bucket_bytes=first_bucket_bytes,
            )
            plane = layout.plane(partial(communicator.empty, dtype=dtype))
            for bucket in layout.buckets:
                views = [layout.view(plane, member) for member in bucket.members]
                members = [indices[member] for member in bucket.members]
                flat = plane[bucket.begin : bucket.end]
                names = [self._names[member] for member in members]
                begin = int(flat.storage_offset())
                self._buckets.append(LiveBucket(flat, members, views, begin, names))
        # A bucket is full when its earliest parameter arrives; backward goes from last to first.
        self._buckets.sort(key=lambda bucket: -min(bucket.members))
        self._bucket_of = {index: b for b in self._buckets for index in b.members}
        self._works: list[Work] = []
        self.compressor: Compressor[Any] | None = None
        if compression is not None:
            self.compressor = compression.over(communicator, names=self._names)
            for number, live in enumerate(self._buckets):
                self.compressor.prepare(live.flat, bucket=number, slots=live.slots)

    def arrive(self, index: int) -> None:
        """A parameter's gradient is complete for this backward.

        Raises:
            RuntimeError: it had arrived already.
        """
        bucket = self._bucket_of[index]
        if index in bucket.arrived:
            raise RuntimeError(
                f"parameter {self._names[index]!r} received a gradient twice in one backward, as "
                "reentrant checkpointing does; use torch.utils.checkpoint with use_reentrant=False"
            )
        bucket.arrived.add(index)
        self._reduce_full_buckets()

    def reset(self) -> None:
        """Forgets a backward that raised before its end; what it began writes no bucket later."""
        for work in self._works:
            work.wait()
        self._works.clear()
        for bucket in self._buckets:
            bucket.arrived.clear()

    def finish(self, *, find_unused: bool) -> None:
        """Backward has ended: completes, reduces and waits, then looks after missing gradients.

        Args:
            find_unused: a parameter without gradient counts as zeros; it keeps ``None`` if that is
                so on all ranks. Otherwise it is an error, raised after the reduction.

        Raises:
            RuntimeError: naming the parameters that received no gradient on this rank.
        """
        missing = [
            index
            for bucket in self._buckets
            for index in bucket.members
            if index not in bucket.arrived and self._params[index].grad is None
        ]
        for bucket in self._buckets:
            bucket.arrived.update(bucket.members)
        self._reduce_full_buckets()
        for work in self._works:
            self._wait(work)
        self.reset()
        if find_unused:
            self._forget_unused(missing)
        elif missing:
            names = ", ".join(repr(self._names[index]) for index in missing)
            for index in missing:
                self._params[index].grad = None
            raise RuntimeError(
                f"no gradient reached {names} in this backward on rank {self._communicator.rank}; "
                "pass find_unused_parameters=True if that is meant, or freeze them with "
                "requires_grad_(False) before wrapping"
            )

    def _reduce_full_buckets(self) -> None:
        while len(self._works) < len(self._buckets):
            bucket = self._buckets[len(self._works)]
            if len(bucket.arrived) < len(bucket.members):
                return
            start = time.monotonic_ns()
            self._pack(bucket)
            SPANS.record("pack", start, time.monotonic_ns())
            self._works.append(self._reduce(bucket, len(self._works)))

    def _reduce(self, bucket: LiveBucket, number: int) -> Work:
        if self.compressor is None:
            return self._communicator.all_reduce(bucket.flat, "mean", background=self._background)
        return self.compressor.all_reduce(
            bucket.flat, bucket=number, slots=bucket.slots, background=self._background
        )

    def _pack(self, bucket: LiveBucket) -> None:
        sources, offsets = [], []
        for index, view, offset in zip(bucket.members, bucket.views, bucket.offsets, strict=True):
            param = self._params[index]
            grad = param.grad
            if grad is view:
                continue
            if grad is None:
                view.zero_()
            elif grad.layout is not torch.strided:
                raise RuntimeError(
                    f"the gradient of {self._names[index]!r} is {grad.layout}; DataParallel "
                    "reduces dense gradients only"
                )
            elif grad.stride() == view.stride() and not grad.is_neg():
                sources.append(grad)
                offsets.append(offset)
            else:
                view.copy_(grad)
            param.grad = view
        if sources:
            _tensors.pack(sources, bucket.flat, offsets)

    def _wait(self, work: Work) -> None:
        start = time.monotonic_ns()
        work.wait()
        end = time.monotonic_ns()
        native = getattr(work, "native", None)
        waited = 0
        if native is not None:
            start, end, waited = native.started_ns, native.ended_ns, native.waited_ns
        SPANS.record("wait", end - waited, end)
        SPANS.record("reduce", start, end - waited)

    def _forget_unused(self, missing: list[int]) -> None:
        """A parameter without gradient on all ranks gets ``None``, not zeros."""
        used = torch.ones(len(self._params), dtype=torch.int32, device=self._params[0].device)
        used[missing] = 0
        self._communicator.all_reduce(used, "max").wait()
        for index in (used == 0).nonzero().flatten().tolist():
            # A compressor may have sent what it owed from earlier steps: that counts.
            if self.compressor is None or not bool(self._params[index].grad.any()):
                self._params[index].grad = None
