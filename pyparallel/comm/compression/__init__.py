"""Compression of gradients on their way between ranks: one file per scheme, one protocol."""

from __future__ import annotations

from typing import Literal

from pyparallel.comm.compression.cast import BF16, FP16
from pyparallel.comm.compression.compressor import Compressor, Scheme
from pyparallel.comm.compression.int8 import Int8
from pyparallel.comm.compression.power_sgd import PowerSGD
from pyparallel.comm.compression.state import Slot
from pyparallel.comm.compression.top_k import TopK

Compression = Scheme | Literal["fp16", "bf16", "int8"]

_BY_NAME: dict[str, Scheme] = {"fp16": FP16(), "bf16": BF16(), "int8": Int8()}

__all__ = [
    "BF16",
    "FP16",
    "Compression",
    "Compressor",
    "Int8",
    "PowerSGD",
    "Scheme",
    "Slot",
    "TopK",
    "scheme_of",
]


def scheme_of(compression: Compression) -> Scheme:
    """The scheme that is meant.

    Raises:
        ValueError: a name that is none.
        TypeError: something else, a scheme's class instead of a scheme for instance.
    """
    if isinstance(compression, str):
        if compression not in _BY_NAME:
            raise ValueError(f"compression {compression!r} is none of {', '.join(_BY_NAME)}")
        return _BY_NAME[compression]
    if isinstance(compression, type) or not hasattr(compression, "over"):
        raise TypeError(
            f"compression must be a name or a scheme such as TopK(ratio=0.01), not {compression!r}"
        )
    return compression
