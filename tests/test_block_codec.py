"""_block_codec: codes, scales and errors against float64; gathered parts; what does not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyparallel._block_codec import BLOCK, decode_blocks, encode_blocks, num_blocks, sum_blocks

VALUES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [0, 1, 255, 256, 257, 70_001]
SMALLEST_NORMAL = 2.0**-126
HALF = 0.5 + 2.0**-16  # half a step and what dividing rounds


def encoded(values: Tensor, error: Tensor | None = None) -> tuple[Tensor, Tensor]:
    codes = torch.full((values.numel(),), 99, dtype=torch.int8)
    scales = torch.full((num_blocks(values.numel()),), -7.0)
    encode_blocks(values, codes, scales, error=error)
    return codes, scales


def per_element(scales: Tensor, numel: int) -> Tensor:
    return scales.repeat_interleave(BLOCK)[:numel]


def check(total: Tensor, codes: Tensor, scales: Tensor, error: Tensor) -> None:
    """What the codec promises of float32 sums of values and errors, in float64."""
    largest = torch.stack([block.abs().max() for block in total.split(BLOCK)]).double()
    finite = torch.stack([block.isfinite().all() for block in total.split(BLOCK)])
    exact = largest / 127
    cut = torch.where(exact.float() < SMALLEST_NORMAL, 0.0, exact)
    assert torch.equal(finite, ~scales.isnan())
    torch.testing.assert_close(scales[finite].double(), cut[finite], rtol=2.0**-16, atol=0)
    scale, ok = per_element(scales, total.numel()).double(), per_element(finite, total.numel())
    assert torch.equal(codes[ok] * scale[ok] + error[ok].double(), total[ok].double())
    assert (error.abs() <= torch.where(scale > 0, HALF * scale, SMALLEST_NORMAL * 127.1))[ok].all()
    assert not codes[~ok].any()
    assert not error[~ok].any()
    assert codes.min() >= -127


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("numel", SIZES[1:])
def test_codes_and_error_are_the_value(dtype: torch.dtype, numel: int, threads: None) -> None:
    values, before = torch.randn(numel).to(dtype), torch.randn(numel) * 0.01
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        error = before.clone()
        version = error._version
        codes, scales = encoded(values, error)
        assert error._version > version
        check(values.float() + before, codes, scales, error)
        results.append((codes, scales, error))
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


@given(st.lists(st.floats(width=32), min_size=1, max_size=2 * BLOCK + 1))
def test_any_floats(numbers: list[float]) -> None:
    values, error = torch.tensor(numbers), torch.zeros(len(numbers))
    codes, scales = encoded(values, error)
    check(values, codes, scales, error)


@given(
    st.lists(st.integers(-127, 127), min_size=1, max_size=BLOCK),
    st.integers(1, 2**10),
    st.integers(-80, 80),
)
def test_multiples_of_a_scale_come_back(numbers: list[int], steps: int, exponent: int) -> None:
    """Exactly, for a scale of few bits."""
    values = torch.tensor([127, *numbers[1:]]) * (steps * 2.0**exponent)
    error, output = torch.zeros_like(values), torch.empty_like(values)
    codes, scales = encoded(values, error)
    decode_blocks(codes, scales, output)
    assert torch.equal(output, values)
    assert not error.any()


def test_without_error_the_codes_are_those_of_no_error() -> None:
    values = torch.randn(1000)
    plain, zero = encoded(values), encoded(values, torch.zeros(1000))
    assert all(torch.equal(one, two) for one, two in zip(plain, zero, strict=True))


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("numel", SIZES)
def test_decoding_scales_and_adds(dtype: torch.dtype, numel: int) -> None:
    codes, scales = encoded(torch.randn(numel))
    before = torch.randn(numel).to(dtype)
    product = codes.float() * per_element(scales, numel) * 0.3
    output = before.clone()
    decode_blocks(codes, scales, output, factor=0.3)
    assert torch.equal(output, product.to(dtype))
    output = before.clone()
    decode_blocks(codes, scales, output, factor=0.3, add=True)
    assert torch.equal(output, (before.float() + product).to(dtype))


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_sums_the_parts_of_one_gathered_buffer(dtype: torch.dtype, ranks: int) -> None:
    """Each part: the codes, padding to a multiple of 4, the scales."""
    numel = 1001
    padded = -(-numel // 4) * 4
    gathered = torch.zeros(ranks, padded + 4 * num_blocks(numel), dtype=torch.int8)
    expected = torch.zeros(numel)
    for rank, part in enumerate(gathered):
        codes, scales = encoded(torch.randn(numel))
        part[:numel] = codes
        part[padded:] = scales.view(torch.int8)
        product = codes.float() * per_element(scales, numel)
        expected = product if rank == 0 else expected + product
    output = torch.empty(numel, dtype=dtype)
    scales = gathered[:, padded:].view(torch.float32)
    sum_blocks(gathered[:, :numel], scales, output, factor=1 / ranks)
    assert torch.equal(output, (expected * torch.tensor(1 / ranks)).to(dtype))


def test_nan_reaches_the_sum_and_is_gone_with_it() -> None:
    values, error = torch.randn(2, 600), torch.zeros(600)
    values[0, 300] = float("inf")
    both = [encoded(values[0], error), encoded(values[1])]
    assert error.isfinite().all()
    output = torch.empty(600)
    sum_blocks(torch.stack([b[0] for b in both]), torch.stack([b[1] for b in both]), output)
    assert output[256:512].isnan().all()
    assert output[:256].isfinite().all()


def test_refuses_what_does_not_fit() -> None:
    values, codes, scales = torch.ones(300), torch.ones(300, dtype=torch.int8), torch.ones(2)
    with pytest.raises(ValueError, match="scales has 3 elements, not 2"):
        encode_blocks(values, codes, torch.ones(3))
    with pytest.raises(ValueError, match=r"codes must be contiguous int8 .* torch.uint8"):
        encode_blocks(values, codes.byte(), scales)
    with pytest.raises(ValueError, match=r"values must be .* torch.float64"):
        encode_blocks(values.double(), codes, scales)
    with pytest.raises(ValueError, match="error has 299 elements, not 300"):
        encode_blocks(values, codes, scales, error=torch.zeros(299))
    with pytest.raises(ValueError, match=r"gaps|strides"):
        encode_blocks(torch.ones(600)[::2], codes, scales)
    with pytest.raises(TypeError, match="meta"):
        decode_blocks(codes.to("meta"), scales, values)
    with pytest.raises(ValueError, match="output has 299 elements, not 300"):
        decode_blocks(codes, scales, values[:299])
    with pytest.raises(ValueError, match=r"codes .*(gaps|strides)"):
        decode_blocks(torch.ones(600, dtype=torch.int8)[::2], scales, values)
    with pytest.raises(ValueError, match=r"codes of shape \(2, 300\) and scales of shape \(3, 2\)"):
        sum_blocks(torch.stack([codes, codes]), torch.ones(3, 2), values)
    assert torch.equal(values, torch.ones(300))
