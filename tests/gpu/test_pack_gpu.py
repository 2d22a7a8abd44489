"""Pack and unpack on CUDA: every pair of dtypes, each element, and nothing beside the slices."""

from itertools import product

import pytest
import torch

from pyparallel import _tensors

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [0, 1, 7, 8, 9, 0, 2047, 2048, 2049, 70_001, 0]
UNTOUCHED = 5.0


def names(dtype):
    return str(dtype).removeprefix("torch.")


def convert(values, dtype, scale):
    """The contract in torch: float32 in the middle, float64 when either side is."""
    middle = torch.float64 if torch.float64 in (values.dtype, dtype) else torch.float32
    return (values.to(middle) * torch.tensor(scale, dtype=middle, device=values.device)).to(dtype)


def make_list(dtype, gap, shift, generator):
    """Tensors `shift` elements into their memory, and offsets `gap` elements apart."""
    device = generator.device
    tensors, offsets, offset = [], [], gap
    for size in SIZES:
        values = torch.randn((size + shift,), generator=generator, device=device)
        tensors.append(values.to(dtype)[shift:])
        offsets.append(offset)
        offset += size + gap
    return tensors, offsets, offset


@pytest.mark.parametrize(("source", "target"), list(product(FLOATS, FLOATS)), ids=names)
@pytest.mark.parametrize("scale", [1.0, 0.37])
@pytest.mark.parametrize(("gap", "shift"), [(0, 0), (3, 0), (3, 3), (32, 1)])
def test_pack_and_unpack_convert_every_element(source, target, scale, gap, shift, generator):
    tensors, offsets, total = make_list(source, gap, shift, generator)
    flat = torch.full((total,), UNTOUCHED, dtype=target, device=generator.device)
    expected = flat.clone()
    for tensor, offset in zip(tensors, offsets, strict=True):
        expected[offset : offset + tensor.numel()] = convert(tensor, target, scale)
    _tensors.pack(tensors, flat, offsets, scale=scale)
    assert torch.equal(flat, expected), (flat - expected).abs().argmax().item()

    back = [torch.full_like(tensor, UNTOUCHED) for tensor in tensors]
    _tensors.unpack(flat, offsets, back, scale=scale)
    for tensor, offset in zip(back, offsets, strict=True):
        slice_ = flat[offset : offset + tensor.numel()]
        assert torch.equal(tensor, convert(slice_, source, scale)), tensor.numel()


def test_same_dtype_keeps_the_bits_of_nan(generator):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16, device=generator.device)
    flat = torch.zeros(2**16, dtype=torch.bfloat16, device=generator.device)
    _tensors.pack([bits.view(torch.bfloat16)], flat, [0])
    assert torch.equal(flat.view(torch.int16), bits)


def test_a_list_longer_than_one_launch(generator):
    device = generator.device
    tensors = [torch.full((index % 5,), float(index), device=device) for index in range(5000)]
    offsets, total = [], 0
    for tensor in tensors:
        offsets.append(total)
        total += tensor.numel()
    flat = torch.zeros(total, device=device)
    _tensors.pack(tensors, flat, offsets)
    assert torch.equal(flat, torch.cat(tensors))


def test_beyond_2_to_the_31_elements(generator):
    numel = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 3 * 2 * numel:
        pytest.skip("less than 12 GiB of free device memory")
    source = torch.zeros(numel, dtype=torch.bfloat16, device=generator.device)
    source[-5000:] = torch.randn(5000, generator=generator, device=generator.device)
    flat = torch.zeros_like(source)
    _tensors.pack([source], flat, [0])
    assert torch.equal(flat, source)
    total = _tensors.sum_of_squares([source])
    expected = source[-5000:].double().square().sum()
    torch.testing.assert_close(total[0], expected, rtol=1e-6, atol=0)
