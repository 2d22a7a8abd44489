"""NcclWork: an operation on a comm stream, and the tensors that it keeps alive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyparallel import _tensors
from pyparallel._native import core


class NcclWork:
    """An operation in flight. It holds its tensors until nobody can reuse their memory too early.

    That is when the device has passed the end of the operation, or, sooner, when wait() was called
    on the stream that issued it: what that stream does later, reusing the memory among it, comes
    after the operation. Unlike Tensor.record_stream() this frees memory in the order of the
    program, not when the host happens to look.
    """

    __slots__ = ("_on_error", "_stream", "_tensors", "_written", "device", "native")

    def __init__(
        self,
        native: core.NcclWork,
        tensors: tuple[Tensor | None, ...],
        *,
        written: Tensor | None,
        device: torch.device,
        stream: int,
        on_error: Callable[[Exception], None],
    ) -> None:
        self.native = native
        self.device = device
        self._tensors = tensors
        self._written = written
        self._stream = stream
        self._on_error = on_error

    @property
    def started_ns(self) -> int:
        """When it began (time.monotonic_ns()); 0 until the device has passed it."""
        return self.native.started_ns

    @property
    def ended_ns(self) -> int:
        """When it was through; 0 until the device has passed it."""
        return self.native.ended_ns

    def wait(self) -> None:
        """Makes the current stream wait for the result; the host goes on.

        Raises:
            PeerLostError: a rank died or left.
            PeerFailedError: a rank said that it has failed.
            CollectiveTimeoutError: a rank did not come in time.
            NcclError: NCCL failed.
        """
        _, stream = _tensors.device_and_stream(self.device)
        try:
            self.native.wait(stream)
        except Exception as error:
            self._on_error(error)
            raise
        if self._written is not None:
            torch.autograd.graph.increment_version(self._written)
            self._written = None
        if stream == self._stream:
            self._tensors = ()

    def is_completed(self) -> bool:
        """Whether the device has passed the end, or the operation has failed."""
        return self.native.completed

    def exception(self) -> BaseException | None:
        """The error of a failed operation, or None."""
        if not self.native.failed:
            return None
        try:
            self.native.wait(self._stream)
        except Exception as error:
            return error
        return None
