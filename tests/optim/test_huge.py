"""Sizes beyond 2^31 elements: every index is 64 bits wide."""

from __future__ import annotations

import mmap

import torch

from pyparallel.optim import SGD


def zero_pages(numel: int) -> torch.Tensor:
    """bfloat16 zeros that take no memory until they are written."""
    return torch.frombuffer(mmap.mmap(-1, 2 * numel), dtype=torch.bfloat16)


def test_the_end_of_a_huge_tensor_is_stepped():
    numel, tail = (1 << 31) + 4099, 5
    param = zero_pages(numel).requires_grad_()
    param.grad = zero_pages(numel)
    param.grad[-tail:] = 1.0
    param.grad[(1 << 31) - 1] = 2.0
    SGD([param], lr=0.5).step()
    assert bool((param[-tail:] == -0.5).all())
    assert param[(1 << 31) - 1].item() == -1.0
    assert param[: 1 << 20].count_nonzero() == 0
    assert param[1 << 31 : -tail].count_nonzero() == 0
