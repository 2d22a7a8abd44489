"""Exceptions of pyparallel. The native core raises the same ones, by name."""

from __future__ import annotations

from typing import Any


class PyparallelError(RuntimeError):
    """Base of everything that can go wrong beside a caller's mistake."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with the details, so that a launcher can pass the error on."""
        return _restore, (type(self), str(self), dict(self.__dict__))


def _restore(cls: type[PyparallelError], message: str, details: dict[str, Any]) -> PyparallelError:
    error = cls.__new__(cls, message)
    error.__dict__.update(details)
    error.args = (message,)
    return error


class PeerLostError(PyparallelError):
    """A rank died, or left while others still waited for it.

    Attributes:
        rank: the rank that was lost.
    """

    def __init__(self, message: str, rank: int) -> None:
        super().__init__(message)
        self.rank = rank


class PeerFailedError(PyparallelError):
    """A rank said that it has failed: it raised, or called Communicator.abort().

    Attributes:
        rank: the rank that failed.
        operation: what it was doing, or "" if no operation of the communicator.
        cause: its own words.
    """

    def __init__(self, message: str, rank: int, operation: str, cause: str) -> None:
        super().__init__(message)
        self.rank = rank
        self.operation = operation
        self.cause = cause


class CollectiveMismatchError(PyparallelError):
    """Ranks called different operations, sizes or dtypes; the message names both sides."""


class CollectiveTimeoutError(PyparallelError):
    """A rank did not come to a collective in time although its process is alive."""


class OutOfMemoryError(PyparallelError):
    """Memory that was asked for is not there.

    Attributes:
        requested: bytes asked for.
        available: bytes that could have been had.
    """

    def __init__(self, message: str, requested: int, available: int) -> None:
        super().__init__(message)
        self.requested = requested
        self.available = available


class CudaError(PyparallelError):
    """A CUDA runtime call failed.

    Attributes:
        code: the cudaError_t.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NcclError(PyparallelError):
    """An NCCL call failed, or the library is not there.

    Attributes:
        code: the ncclResult_t; -1 if no call was made.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
