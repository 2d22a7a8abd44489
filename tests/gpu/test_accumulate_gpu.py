"""Accumulate on CUDA: the same bits as on the CPU, and the sum of squares of what it wrote."""

import pytest
import torch

from pyparallel import _tensors
from pyparallel._native import core

FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INTEGERS = [torch.int32, torch.int64, torch.uint8, torch.int8, torch.int16]
SIZES = [0, 1, 7, 15, 2047, 2049, 70_001]


def fresh(numel, dtype, generator, shift):
    """Values that start `shift` elements into their memory."""
    device = generator.device
    if dtype.is_floating_point:
        values = torch.randn(numel + shift, generator=generator, device=device).to(dtype)
    else:
        values = torch.randint(0, 100, (numel + shift,), generator=generator, device=device)
        values = values.to(dtype)
    return values[shift:]


def accumulate(output, sources, op="sum", *, factors=(), scale=1.0, squares=None):
    device, stream = _tensors.device_and_stream(output.device)
    workspace = torch.empty(
        core.accumulate_workspace(output.numel(), device), dtype=torch.uint8, device=output.device
    )
    core.accumulate(
        output.data_ptr(),
        _tensors.addresses(sources),
        list(factors),
        output.numel(),
        _tensors.dtype_code(output.dtype, what="output"),
        core.Accumulation.__members__[op],
        scale,
        0 if squares is None else squares.data_ptr(),
        workspace.data_ptr(),
        device,
        stream,
        1,
    )


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
@pytest.mark.parametrize("op", ["sum", "product", "max", "min"])
@pytest.mark.parametrize("count", [1, 2, 5, 64])
@pytest.mark.parametrize("shifts", [(0,), (3,), (1, 2, 0)], ids=str)
def test_the_bits_are_those_of_the_cpu(dtype, op, count, shifts, generator):
    for numel in SIZES:
        sources = [
            fresh(numel, dtype, generator, shifts[index % len(shifts)]) for index in range(count)
        ]
        multiply = {"factors": [0.3 * s - 1 for s in range(count)], "scale": 1 / 3}
        options = multiply if dtype.is_floating_point else {}
        on_cpu = [source.cpu() for source in sources]
        accumulate(sources[-1], sources, op, **options)
        accumulate(on_cpu[-1], on_cpu, op, **options)
        assert torch.equal(sources[-1].cpu(), on_cpu[-1]), numel


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("op", ["max", "min"])
@pytest.mark.parametrize("place", [0, 1])
def test_nan_wins(dtype, op, place, generator):
    sources = [fresh(100, dtype, generator, 0) for _ in range(2)]
    sources[place].fill_(float("nan"))
    output = torch.empty_like(sources[0])
    accumulate(output, sources, op)
    assert output.isnan().all()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shift", [0, 1])
def test_squares_are_those_of_the_result(dtype, shift, generator):
    sources = [fresh(300_001, dtype, generator, shift) for _ in range(2)]
    output = torch.empty_like(sources[0])
    squares = torch.tensor([0.5, 0.0], dtype=torch.float64, device=generator.device)
    accumulate(output, sources, scale=0.5, squares=squares)
    expected = 0.5 + output.double().square().sum()
    torch.testing.assert_close(squares[0], expected, rtol=5e-7, atol=0)
    assert squares[1].item() == 0.0
    again = torch.tensor([0.5, 0.0], dtype=torch.float64, device=generator.device)
    accumulate(output, sources, scale=0.5, squares=again)
    assert torch.equal(again, squares)
    sources[0][-1] = float("inf")
    accumulate(output, sources, squares=squares)
    accumulate(output[:5], [source[:5] for source in sources], squares=squares)
    assert squares[1].item() == 1.0


def test_beyond_2_to_the_31_elements(generator):
    numel = 2**31 + 4099
    if torch.cuda.mem_get_info()[0] < 3 * 2 * numel:
        pytest.skip("less than 12 GiB of free device memory")
    sources = [torch.zeros(numel, dtype=torch.bfloat16, device=generator.device) for _ in range(2)]
    for source in sources:
        source[-5000:] = fresh(5000, torch.bfloat16, generator, 0)
    expected = sources[0][-5000:] + sources[1][-5000:]
    accumulate(sources[0], sources)
    assert torch.equal(sources[0][-5000:], expected)
    assert not sources[0][:-5000].any()
