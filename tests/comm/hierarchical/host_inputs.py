"""Inputs that all ranks can draw, so that each knows what the others gave; and references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor

from pyparallel.comm import Op, Premultiplied

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int32, torch.int64, torch.uint8]
LAYOUTS = ["aabb", "aaab", "abab", "abc", "baab"]
COUNTS = [0, 1, 3, 1000, 4097, 20_001]


def hosts(layout: str) -> Callable[[int], Mapping[str, str]]:
    """The environment of ranks on hosts of these names, one letter a rank."""
    return lambda rank: {"PYPARALLEL_HOST": layout[rank]}


def draw(seed: int, rank: int, count: int, dtype: torch.dtype) -> Tensor:
    """What a rank gives: small numbers, so that references in float64 are near."""
    generator = torch.Generator().manual_seed(seed * 1009 + rank)
    if dtype == torch.bool or not dtype.is_floating_point:
        return torch.randint(0, 4, (count,), generator=generator).to(dtype)
    return torch.randn(count, generator=generator, dtype=torch.float64).to(dtype)


def combine(tensors: list[Tensor], op: Op) -> Tensor:
    """In float64 or in integers, as an exact reference."""
    exact = [t.double() if t.dtype.is_floating_point else t.long() for t in tensors]
    if isinstance(op, Premultiplied):
        return sum((t * factor(rank) for rank, t in enumerate(exact)), torch.zeros_like(exact[0]))
    if op == "mean":
        return torch.stack(exact).mean(0)
    functions = {"sum": torch.add, "max": torch.maximum, "min": torch.minimum, "product": torch.mul}
    return reduce(functions[op], exact)


def factor(rank: int) -> float:
    """Of a premultiplied sum."""
    return 0.5 + rank


def own_op(op: Op, rank: int) -> Op:
    """The op as this rank passes it."""
    return Premultiplied(factor(rank)) if isinstance(op, Premultiplied) else op


def assert_near(result: Tensor, exact: Tensor, what: object) -> None:
    """Rounded once: within one unit in the last place of the dtype, and of float32 for each sum."""
    if not result.dtype.is_floating_point:
        assert torch.equal(result, exact.to(result.dtype)), what
        return
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-5}.get(result.dtype)
    if tolerance is None:
        tolerance = torch.finfo(result.dtype).eps * 0.501 + 1e-6
    worst = (result.double() - exact).abs() - tolerance * exact.abs() - 2e-6
    assert result.numel() == 0 or worst.max().item() <= 0, (what, result, exact)
