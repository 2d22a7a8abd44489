"""Compression of gradients on their way between ranks: one file per scheme, one protocol."""

from __future__ import annotations

from typing import Literal

from pyparallel.comm.compression.cast import BF16, FP16
from pyparallel.comm.compression.compressor import Compressor, Scheme
from pyparallel.comm.compression.power_sgd import PowerSGD
from pyparallel.comm.compression.state import Slot
from pyparallel.comm.compression.top_k import TopK

Compression = Scheme | Literal["fp16", "bf16", "int8"]

__all__ = ["BF16", "FP16", "Compression", "Compressor", "PowerSGD", "Scheme", "Slot", "TopK"]
