"""_tensors: pack, unpack, sum of squares against torch; what has no memory is refused."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyparallel import _tensors

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (0, 1, 3, 512, 513, 70_001, 0)


def layout_of(tensors: list[torch.Tensor]) -> tuple[list[int], int]:
    """Unaligned slices with gaps."""
    offsets, end = [], 1
    for tensor in tensors:
        offsets.append(end)
        end += tensor.numel() + 3
    return offsets, end


@pytest.mark.parametrize(("source", "target"), itertools.product(FLOATS, FLOATS))
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_pack_casts_scales_and_touches_only_its_slices(
    source: torch.dtype, target: torch.dtype, scale: float
) -> None:
    tensors = [torch.randn(size).to(source) for size in SIZES]
    offsets, numel = layout_of(tensors)
    flat = torch.full((numel,), 7.0, dtype=target)
    version = flat._version
    _tensors.pack(tensors, flat, offsets, scale=scale)
    assert flat._version > version
    middle = torch.float64 if torch.float64 in (source, target) else torch.float32
    factor = torch.tensor(scale, dtype=middle)
    expected = torch.full((numel,), 7.0, dtype=target)
    for tensor, offset in zip(tensors, offsets, strict=True):
        scaled = tensor.to(middle) * factor
        if target.itemsize == 2:
            scaled = scaled.float()
        expected[offset : offset + tensor.numel()] = scaled.to(target)
    assert torch.equal(flat, expected)
    back = [torch.empty_like(tensor) for tensor in tensors]
    _tensors.unpack(flat, offsets, back)
    for tensor, offset in zip(back, offsets, strict=True):
        assert torch.equal(tensor, flat[offset : offset + tensor.numel()].to(source))


def test_pack_keeps_the_memory_order() -> None:
    tensor = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    flat = torch.empty(tensor.numel())
    _tensors.pack([tensor], flat, [0])
    assert torch.equal(flat.as_strided(tensor.shape, tensor.stride()), tensor)


def test_pack_refuses_what_does_not_fit() -> None:
    flat = torch.zeros(10)
    with pytest.raises(ValueError, match="elements 5 to 11 of flat, which has 10"):
        _tensors.pack([torch.ones(6)], flat, [5])
    with pytest.raises(ValueError, match="2 tensors, but 1 offsets"):
        _tensors.pack([torch.ones(1), torch.ones(1)], flat, [0])
    with pytest.raises(ValueError, match=r"tensor 1 is torch.float64 .* tensor 0 is torch.float32"):
        _tensors.pack([torch.ones(1), torch.ones(1, dtype=torch.float64)], flat, [0, 1])
    with pytest.raises(ValueError, match="no conversion between int32 and float32"):
        _tensors.pack([torch.ones(1, dtype=torch.int32)], flat, [0])
    assert flat.sum() == 0
    _tensors.pack([], flat, [])


@pytest.mark.parametrize("dtype", FLOATS)
def test_sum_of_squares_equals_float64(dtype: torch.dtype, threads: None) -> None:
    tensors = [torch.randn(size).to(dtype) for size in SIZES]
    expected = sum(float(tensor.double().square().sum()) for tensor in tensors)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(_tensors.sum_of_squares(tensors).tolist())
    assert results[0] == results[1]
    assert results[0][0] == pytest.approx(expected, rel=1e-12)
    assert results[0][1] == 0.0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan")])
def test_one_element_that_is_not_finite_is_found(dtype: torch.dtype, bad: float) -> None:
    tensor = torch.ones(1031, dtype=dtype)
    tensor[torch.randint(1031, ())] = bad
    assert _tensors.sum_of_squares([torch.ones(5, dtype=dtype), tensor])[1] == 1.0


def test_a_square_that_overflows_float32_is_no_infinity() -> None:
    result = _tensors.sum_of_squares([torch.full((100,), torch.finfo(torch.float32).max)])
    assert result[1] == 0.0
    assert result[0].isfinite()


def test_what_has_no_plain_memory_is_refused_by_name() -> None:
    fake_mode = torch._subclasses.FakeTensorMode()
    cases = {
        "meta": (torch.ones(2, device="meta"), TypeError, "meta tensor"),
        "fake": (fake_mode.from_tensor(torch.ones(2)), TypeError, "FakeTensor"),
        "sparse": (torch.ones(2).to_sparse(), TypeError, "sparse_coo"),
        "expanded": (torch.ones(1).expand(3), ValueError, "gaps or overlapping"),
        "strided": (torch.ones(4)[::2], ValueError, "gaps or overlapping"),
    }
    for name, (tensor, error, message) in cases.items():
        with pytest.raises(error, match=message):
            _tensors.check_memory(tensor, what=name)
    for dense in (torch.ones(2, 3).t(), torch.ones(0, 3), torch.ones(()), torch.ones(1, 4)[:, :3]):
        _tensors.check_memory(dense, what="dense")
