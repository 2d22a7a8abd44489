"""Sum of squares on CUDA against float64; the flag speaks of the elements, not of their squares."""

import pytest
import torch

from pyparallel import _tensors

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [0, 1, 7, 8, 9, 0, 2047, 2048, 2049, 70_001, 0]


def make_list(dtype, generator, scale=1.0, sizes=SIZES):
    device = generator.device
    return [
        (torch.randn((size,), generator=generator, device=device).double() * scale).to(dtype)
        for size in sizes
    ]


def expected_sum(tensors):
    return torch.stack([tensor.double().square().sum() for tensor in tensors]).sum()


def shifted(tensor):
    """The same values one element into fresh memory."""
    return torch.cat([tensor.new_zeros(1), tensor])[1:]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_sum_follows_float64(dtype, generator):
    tensors = make_list(dtype, generator)
    total = _tensors.sum_of_squares(tensors)
    assert total.dtype == torch.float64
    assert total[1].item() == 0.0
    torch.testing.assert_close(total[0], expected_sum(tensors), rtol=5e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1e30, 1e-30, 0.0])
def test_squares_outside_the_range_of_float(dtype, scale, generator):
    tensors = make_list(dtype, generator, scale)
    total = _tensors.sum_of_squares(tensors)
    assert total[1].item() == 0.0
    torch.testing.assert_close(total[0], expected_sum(tensors), rtol=5e-7, atol=0)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("place", [0, 35_000, -1])
def test_one_bad_element_raises_the_flag(dtype, bad, place, generator):
    tensors = make_list(dtype, generator)
    tensors[9][place] = bad
    total = _tensors.sum_of_squares(tensors)
    assert total[1].item() == 1.0
    assert not torch.isfinite(total[0])


def test_float64_squares_may_overflow_without_the_flag(generator):
    huge = torch.full((100,), 1e200, dtype=torch.float64, device=generator.device)
    total = _tensors.sum_of_squares([huge])
    assert total.tolist() == [float("inf"), 0.0]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_neither_repetition_nor_address_changes_a_bit(dtype, generator):
    tensors = make_list(dtype, generator)
    first = _tensors.sum_of_squares(tensors)
    assert torch.equal(first, _tensors.sum_of_squares(tensors))
    assert torch.equal(first, _tensors.sum_of_squares([shifted(tensor) for tensor in tensors]))


def test_a_list_longer_than_one_launch(generator):
    tensors = make_list(torch.float32, generator, sizes=[index % 7 for index in range(5000)])
    total = _tensors.sum_of_squares(tensors)
    torch.testing.assert_close(total[0], expected_sum(tensors), rtol=5e-7, atol=0)


def test_only_empty_tensors(generator):
    total = _tensors.sum_of_squares([torch.zeros(0, device=generator.device)])
    assert total.tolist() == [0.0, 0.0]
