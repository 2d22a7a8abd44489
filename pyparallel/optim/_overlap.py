"""Parameters that share memory: threads would step the same element at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from pyparallel import _tensors


def check_apart(groups: Sequence[dict[str, Any]]) -> None:
    """No two parameters with gradients overlap; one Tensor object given twice is not looked at.

    Args:
        groups: parameter groups; all parameters with gradients are dense.

    Raises:
        ValueError: naming both parameters.
    """
    spans: list[tuple[int, int, int, int, Tensor]] = []
    for number, group in enumerate(groups):
        for index, owner in enumerate(group["params"]):
            if owner.grad is None:
                continue
            param = _tensors.local(owner)
            start, num_bytes = param.data_ptr(), param.numel() * param.element_size()
            if num_bytes > 0:
                spans.append((start, start + num_bytes, number, index, owner))
    spans.sort(key=lambda span: span[:4])
    for (_, end, *first, one), (start, _, *second, other) in pairwise(spans):
        if start < end and one is not other:
            raise ValueError(
                f"parameter {first[1]} of group {first[0]}, of shape {tuple(one.shape)}, and "
                f"parameter {second[1]} of group {second[0]}, of shape {tuple(other.shape)}, "
                "share memory"
            )
