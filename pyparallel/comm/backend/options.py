"""What torch's callers pass beside tensors: options objects, or the bare values of an overload."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch.distributed as dist

Kind: Any = dist.ReduceOp.RedOpType


def reduce_op(options: Any) -> Any:
    """The ReduceOp of options, a bare one, or the sum."""
    return Kind.SUM if options is None else getattr(options, "reduceOp", options)


def root(options: Any) -> int:
    """The root's rank in the group, from options or a bare number."""
    return int(getattr(options, "rootRank", options) or 0)


def is_async(options: Any) -> bool:
    """Whether the caller goes on before the result is there; torch before 2.7 does not say."""
    return getattr(options, "asyncOp", True)


def seconds(options: Any, timeout: timedelta | None = None) -> float:
    """The call's own deadline; 0 if it has none."""
    given = timeout
    if given is None:
        given = options if isinstance(options, timedelta) else getattr(options, "timeout", None)
    return max(0.0, given.total_seconds()) if isinstance(given, timedelta) else 0.0
