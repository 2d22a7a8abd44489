"""_tensors: pack, unpack, sum of squares against torch; what has no memory is refused."""

from __future__ import annotations

import itertools
import mmap

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


@pytest.mark.parametrize("source", FLOATS)
@pytest.mark.parametrize("target", FLOATS)
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


def zero_pages(numel: int) -> torch.Tensor:
    """bfloat16 zeros that take no memory until they are written."""
    return torch.frombuffer(mmap.mmap(-1, 2 * numel), dtype=torch.bfloat16)


def test_more_than_two_to_the_31_elements_in_one_tensor() -> None:
    numel = (1 << 31) + 4099
    flat = zero_pages(numel)
    source = torch.arange(1.0, 4.0)
    _tensors.pack([source], flat, [numel - 3], scale=2.0)
    back = torch.zeros(3)
    _tensors.unpack(flat, [numel - 3], [back])
    assert back.tolist() == [2.0, 4.0, 6.0]
    assert _tensors.sum_of_squares([flat]).tolist() == [56.0, 0.0]
    flat[numel - 1] = float("inf")
    assert _tensors.sum_of_squares([flat[1 << 31 :]])[1] == 1.0


def test_values_that_no_16_bit_float_holds_are_cast_as_torch_casts_them() -> None:
    inf, nan = float("inf"), float("nan")
    tie = 1 + 2.0**-8
    values = [inf, -inf, nan, 65519.0, 65520.0, 3.4e38, 1e300, 3e-8, 2.9e-8, 1e-40, -0.0, tie]
    for source, target in itertools.product((torch.float32, torch.float64), FLOATS):
        tensor = torch.tensor(values, dtype=torch.float64).to(source)
        flat = torch.zeros(len(values), dtype=target)
        _tensors.pack([tensor], flat, [0])
        expected = tensor.to(target)
        torch.testing.assert_close(flat, expected, rtol=0, atol=0, equal_nan=True)
        known = ~expected.isnan()  # the sign of a NaN says nothing
        assert torch.equal(flat.signbit()[known], expected.signbit()[known])


@pytest.mark.usefixtures("threads")
def test_threads_change_no_bit_of_a_pack() -> None:
    tensors = [torch.randn(size) for size in (*SIZES, 300_001)]
    offsets, numel = layout_of(tensors)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        flat = torch.zeros(numel, dtype=torch.bfloat16)
        _tensors.pack(tensors, flat, offsets, scale=0.7)
        results.append(flat)
    assert torch.equal(*results)


def test_a_pending_negation_is_refused_and_nothing_written() -> None:
    flat = torch.zeros(3)
    for call in (
        lambda tensor: _tensors.pack([tensor], flat, [0]),
        lambda tensor: _tensors.unpack(flat, [0], [tensor]),
        lambda tensor: _tensors.sum_of_squares([tensor]),
    ):
        with pytest.raises(ValueError, match="lazy negation"):
            call(torch._neg_view(torch.ones(3)))
    assert not flat.any()


def test_devices_without_kernels_and_mixed_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="meta"):
        _tensors.device_and_stream(torch.device("meta"))
    with pytest.raises(ValueError, match=r"tensor 1 is torch\.float16"):
        _tensors.sum_of_squares([torch.ones(1), torch.ones(1, dtype=torch.float16)])
    with pytest.raises(ValueError, match="flat must be contiguous"):
        _tensors.pack([torch.ones(2)], torch.zeros(3, 2).t(), [0])
    with pytest.raises(ValueError, match=r"flat of shape .* has gaps"):
        _tensors.pack([torch.ones(2)], torch.zeros(4)[::2], [0])
    with pytest.raises(TypeError, match="complex64, which is none of float32"):
        _tensors.sum_of_squares([torch.ones(1, dtype=torch.complex64)])
    with pytest.raises(ValueError, match="int64"):
        _tensors.sum_of_squares([torch.ones(1, dtype=torch.int64)])
    assert _tensors.sum_of_squares([]).tolist() == [0.0, 0.0]
    assert _tensors.sum_of_squares([torch.ones(0)]).tolist() == [0.0, 0.0]
