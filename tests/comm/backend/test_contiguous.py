"""Contiguous memory for tensors: their own, or a copy whose values find their way back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyparallel.comm.backend.contiguous import (
    contiguous,
    in_turn,
    joined,
    packed,
    unpacked,
    writable,
)


def layouts() -> list[Tensor]:
    base = torch.arange(120.0).view(4, 5, 6)
    complex_base = torch.complex(base, -base)
    return [
        base,
        base.transpose(0, 2),
        base[::2, 1:, ::3],
        base[..., 0],
        base.expand(2, 4, 5, 6)[0],
        base[:0],
        base[0, 0, 0],
        complex_base.conj(),
        complex_base.conj().imag,
        torch.nn.Parameter(base.t() if base.dim() == 2 else base.transpose(0, 1)),
    ]


@pytest.mark.parametrize("index", range(len(layouts())))
def test_values_go_in_and_come_back(index: int) -> None:
    tensor = layouts()[index]
    before = tensor.detach().clone()
    memory = contiguous(tensor, what="x")
    assert memory.is_contiguous()
    assert not memory.is_neg()
    assert not memory.is_conj()
    torch.testing.assert_close(memory.detach(), before, rtol=0, atol=0)
    memory, finish = writable(tensor, what="x")
    assert (memory is tensor) == (finish is None)
    memory.detach().mul_(2)
    if finish is not None:
        torch.testing.assert_close(tensor.detach(), before, rtol=0, atol=0)
        finish()
    torch.testing.assert_close(tensor.detach(), before * 2, rtol=0, atol=0)


def test_neighbours_are_joined_and_only_they() -> None:
    whole = torch.arange(12.0)
    pieces = list(whole.split([5, 4, 3]))
    flat = joined(pieces)
    assert flat is not None
    assert flat.data_ptr() == whole.data_ptr()
    assert torch.equal(flat, whole)
    middle = joined(pieces[1:])
    assert middle is not None
    assert torch.equal(middle, whole[5:])
    for others in (
        pieces[::-1],
        [pieces[0], pieces[2]],
        [pieces[0], pieces[0]],
        [whole[:4], whole[4:8].view(torch.int32)],
        [whole.view(3, 4).t(), torch.ones(1)],
        [torch.ones(2), torch.ones(2)],
        [whole[:0], whole[:0]],
    ):
        assert joined(others) is None


@pytest.mark.parametrize("neighbours", [True, False])
def test_lists_are_packed_and_unpacked(neighbours: bool) -> None:
    whole = torch.zeros(24)
    tensors = [whole[:6].view(2, 3), whole[6:10], whole[10:]]
    if not neighbours:
        tensors = [tensors[1], tensors[0].t(), tensors[2][::2]]
    flat, finish = unpacked(tensors, what="x")
    assert (finish is None) == neighbours
    values = torch.randn(flat.numel())
    flat.copy_(values)
    if finish is not None:
        assert not whole.any()
        finish()
    assert torch.equal(torch.cat([tensor.reshape(-1) for tensor in tensors]), values)
    assert torch.equal(packed(tensors, what="x"), values)


def test_lists_of_different_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x: dtypes torch.float32 and torch.int64 differ"):
        packed([torch.ones(1), torch.ones(1, dtype=torch.int64)], what="x")
    with pytest.raises(ValueError, match="x: the list of tensors is empty"):
        unpacked([], what="x")
    with pytest.raises(TypeError, match=r"x: the tensor is torch.sparse_coo"):
        packed([torch.ones(2), torch.eye(2).to_sparse()], what="x")


def test_finishes_are_called_in_turn() -> None:
    calls: list[int] = []
    assert in_turn([None, None]) is None
    one = lambda: calls.append(1)  # noqa: E731
    assert in_turn([None, one]) is one
    both = in_turn([one, None, lambda: calls.append(2)])
    assert both is not None
    both()
    assert calls == [1, 2]
