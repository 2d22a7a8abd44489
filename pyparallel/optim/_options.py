"""What every optimizer here can do beyond torch's: masters, narrow states, rounding, clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import torch

from pyparallel._native import core

Master = Literal["fp32", "remainder"] | None
StateDtype = Literal["fp32", "bf16", "8bit"]

_STATE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "8bit": torch.uint8}
_NARROW = (torch.bfloat16, torch.float16)


class FusedOptions(TypedDict, total=False):
    """Keyword arguments that all optimizers here take beside torch's; see Options."""

    master: Master
    state_dtype: StateDtype
    stochastic_rounding: bool
    seed: int
    max_norm: float | None


@dataclass(frozen=True)
class Options:
    """How parameters and states are kept, and how gradients are clipped.

    Attributes:
        master: "fp32" keeps a float32 copy of every 16-bit parameter in the state and updates that;
            "remainder" keeps the 16 bits that complete a bfloat16 parameter to its float32 value,
            in half the memory, exact but for the tie above an even parameter, which is kept one ulp
            of float32 lower. The parameter is the rounded value either way.
        state_dtype: of the moments: "fp32"; "bf16"; or "8bit", in blocks of 128 with a float32
            scale each. Moments that change little per step are rounded at random in the latter two,
            since to nearest they would stand still. float64 parameters keep float64 moments.
        stochastic_rounding: bfloat16 parameters without master round at random, so that updates
            smaller than their precision count on average.
        seed: of everything that is rounded at random. The same seed, steps and tensors give the
            same bits, on the CPU and on CUDA.
        max_norm: clip the gradients of all groups together to this 2-norm before the step, as
            torch.nn.utils.clip_grad_norm_ does, without writing them. A norm that is not finite
            skips the step.
    """

    master: Master = None
    state_dtype: StateDtype = "fp32"
    stochastic_rounding: bool = False
    seed: int = 0
    max_norm: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no optimizer can do.

        Raises:
            ValueError: with the value.
        """
        if self.master not in (None, "fp32", "remainder"):
            raise ValueError(f"master is {self.master!r}; it can be None, 'fp32' or 'remainder'")
        if self.state_dtype not in get_args(StateDtype):
            raise ValueError(
                f"state_dtype is {self.state_dtype!r}; it can be 'fp32', 'bf16' or '8bit'"
            )
        if self.stochastic_rounding and self.master is not None:
            raise ValueError(
                f"stochastic_rounding with master={self.master!r}: a master loses nothing that "
                "random rounding could save"
            )
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"seed is {self.seed}; it must fit in 32 bits")
        if self.max_norm is not None and not 0 < self.max_norm < math.inf:
            raise ValueError(f"max_norm is {self.max_norm}; it must be positive and finite")

    @property
    def is_random(self) -> bool:
        """Whether any rounding is random: steps are then counted to seed it."""
        return self.stochastic_rounding or self.state_dtype != "fp32"

    def extra(self, dtype: torch.dtype) -> core.Extra:
        """What parameters of a dtype keep beside themselves.

        Raises:
            TypeError: a remainder or random rounding of float16.
        """
        if dtype not in _NARROW:
            return core.Extra.none
        if dtype == torch.float16 and (self.master == "remainder" or self.stochastic_rounding):
            what = "stochastic_rounding" if self.stochastic_rounding else "master='remainder'"
            raise TypeError(f"{what} is for torch.bfloat16, not torch.float16; use master='fp32'")
        if self.master == "fp32":
            return core.Extra.master
        if self.master == "remainder":
            return core.Extra.remainder
        return core.Extra.stochastic if self.stochastic_rounding else core.Extra.none

    def extra_key(self, dtype: torch.dtype) -> str | None:
        """The state key of what extra() keeps."""
        kept = {core.Extra.master: "master", core.Extra.remainder: "remainder"}
        return kept.get(self.extra(dtype))

    def dtype_of_states(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the moments of parameters of a dtype; uint8 are coded ones."""
        return torch.float64 if dtype == torch.float64 else _STATE_DTYPES[self.state_dtype]
