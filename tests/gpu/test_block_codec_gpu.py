"""The block codec on CUDA: the same bits as on the CPU, whatever the sizes and alignments."""

import pytest
import torch

from pyparallel._block_codec import decode_blocks, encode_blocks, num_blocks, sum_blocks

VALUES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [0, 1, 255, 256, 257, 513, 70_001]


def assert_same_bits(on_cuda, on_cpu):
    actual = on_cuda.cpu()
    if actual.is_floating_point():
        assert torch.equal(actual.isnan(), on_cpu.isnan())
        actual, on_cpu = actual.nan_to_num(nan=0.5), on_cpu.nan_to_num(nan=0.5)
    assert torch.equal(actual, on_cpu), on_cpu.numel()


def shifted(values, shift):
    """The same values `shift` elements into fresh memory."""
    return torch.cat([values.new_zeros(shift), values])[shift:]


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("with_error", [False, True])
@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("bad", [None, float("inf"), float("nan"), 1e-42])
def test_encoding_is_the_cpus(dtype, with_error, shift, bad, generator):
    device = generator.device
    for numel in SIZES:
        values = torch.randn(numel, generator=generator, device=device).to(dtype)
        if bad == 1e-42:
            values.fill_(bad)
        elif bad is not None:
            values[numel // 2 :: 1000] = bad
        error = torch.randn(numel, generator=generator, device=device) * 0.01
        twins = []
        for place in (device, torch.device("cpu")):
            own = shifted(values.to(place), shift)
            codes = shifted(torch.zeros(numel, dtype=torch.int8, device=place), shift)
            scales = torch.zeros(num_blocks(numel), device=place)
            kept = shifted(error.to(place), shift)
            encode_blocks(own, codes, scales, error=kept if with_error else None)
            twins.append((codes, scales, kept))
        for one, other in zip(*twins, strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shift", [0, 3])
def test_decoding_is_the_cpus(dtype, add, shift, generator):
    device = generator.device
    for numel in SIZES:
        codes = torch.randint(-127, 128, (numel,), generator=generator, device=device)
        codes = shifted(codes.to(torch.int8), shift)
        scales = torch.randn(num_blocks(numel), generator=generator, device=device)
        before = torch.randn(numel, generator=generator, device=device).to(dtype)
        output, expected = shifted(before, shift), before.cpu()
        decode_blocks(codes, scales, output, factor=0.3, add=add)
        decode_blocks(codes.cpu(), scales.cpu(), expected, factor=0.3, add=add)
        assert_same_bits(output, expected)


@pytest.mark.parametrize("dtype", VALUES, ids=str)
@pytest.mark.parametrize("ranks", [2, 5])
@pytest.mark.parametrize("unit", [4, 16])
def test_summing_gathered_parts_is_the_cpus(dtype, ranks, unit, generator):
    device = generator.device
    for numel in SIZES[1:]:
        padded = -(-numel // unit) * unit
        size = (ranks, padded + -(-4 * num_blocks(numel) // unit) * unit)
        gathered = torch.randint(-127, 128, size, generator=generator, device=device)
        gathered = gathered.to(torch.int8)
        places = slice(padded, padded + 4 * num_blocks(numel))
        scales = torch.randn(ranks, num_blocks(numel), generator=generator, device=device)
        gathered[:, places] = scales.view(torch.int8)
        outputs = []
        for buffer in (gathered, gathered.cpu()):
            output = torch.zeros(numel, dtype=dtype, device=buffer.device)
            view = buffer[:, places].view(torch.float32)
            sum_blocks(buffer[:, :numel], view, output, factor=1 / ranks)
            outputs.append(output)
        assert_same_bits(*outputs)


def test_beyond_2_to_the_31_elements(generator):
    numel = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 4 * numel:
        pytest.skip("less than 8 GiB of free device memory")
    values = torch.zeros(numel, dtype=torch.bfloat16, device=generator.device)
    values[-5000:] = torch.randn(5000, generator=generator, device=generator.device)
    codes = torch.ones(numel, dtype=torch.int8, device=generator.device)
    scales = torch.ones(num_blocks(numel), device=generator.device)
    encode_blocks(values, codes, scales)
    first = numel - 5000 - (numel - 5000) % 256
    tail, tail_scales = torch.empty_like(codes[first:]).cpu(), scales[first // 256 :].cpu()
    encode_blocks(values[first:].cpu(), tail, tail_scales)
    assert_same_bits(codes[first:], tail)
    assert_same_bits(scales[first // 256 :], tail_scales)
    assert not codes[:first].any()
