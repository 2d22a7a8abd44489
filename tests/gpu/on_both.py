"""An optimizer on CUDA beside the same one on the CPU, over lists of mixed sizes and alignments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

EDGES = [(0,), (1,), (7,), (9,), (2047,), (2048,), (2049,), (300, 301), (4, 3, 5, 7), (0,)]
MANY = [(1 + index * 37 % 300,) for index in range(1100)]  # more than kernel arguments hold


def random(shape: tuple[int, ...], dtype: torch.dtype, generator, shift: int = 0) -> Tensor:
    """A tensor that starts `shift` elements into its memory."""
    numel = torch.Size(shape).numel()
    flat = torch.randn(numel + shift, generator=generator, device=generator.device).to(dtype)
    return flat[shift:].view(shape)


def make_params(shapes, dtype, generator, shift=0) -> list[Tensor]:
    return [torch.nn.Parameter(random(shape, dtype, generator, shift)) for shape in shapes]


def copies(params, device=None, dtype=None) -> list[Tensor]:
    """Leaves of the same values, possibly elsewhere and wider."""
    return [
        torch.nn.Parameter(param.detach().to(device, dtype or param.dtype, copy=True))
        for param in params
    ]


def give(generator, params, *twins, shift=0) -> None:
    """The same fresh gradients to all lists."""
    for group in zip(params, *twins, strict=True):
        grad = random(group[0].shape, group[0].dtype, generator, shift)
        group[0].grad = grad
        for twin in group[1:]:
            twin.grad = grad.to(twin.device, twin.dtype, copy=True)


def everything(optimizer: Optimizer, params: list[Tensor]) -> list[Tensor]:
    """Copies of all parameters and states."""
    states = (value for param in params for value in optimizer.state[param].values())
    return [tensor.detach().clone() for tensor in (*params, *states)]


def assert_same_bits(actual: list[Tensor], expected: list[Tensor]) -> None:
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert torch.equal(a, b), f"tensor {index} of shape {tuple(a.shape)}"


def follows_the_cpu(make, shapes, dtype, generator, *, shift=0, tolerance=2e-6, **options) -> None:
    """Three steps of `make(params, **options)` against float64 on the CPU."""
    params = make_params(shapes, dtype, generator, shift)
    expected = copies(params, "cpu", torch.float64)
    optimizer, reference = make(params, **options), make(expected)
    for _ in range(3):
        give(generator, params, expected, shift=shift)
        optimizer.step()
        reference.step()
    for index, (param, value) in enumerate(zip(params, expected, strict=True)):
        actual = optimizer.state[param].get("master", param.detach())
        torch.testing.assert_close(
            actual.double().cpu(),
            value.detach(),
            rtol=tolerance,
            atol=tolerance,
            msg=lambda text, index=index: f"parameter {index}: {text}",
        )


def repeats_to_the_bit(make, shapes, dtype, generator, **options) -> None:
    params = make_params(shapes, dtype, generator)
    again = copies(params)
    first, second = make(params, **options), make(again, **options)
    for _ in range(2):
        give(generator, params, again)
        first.step()
        second.step()
    assert_same_bits(everything(first, params), everything(second, again))


def skips_wholly(make, shapes, dtype, generator, flag, **options) -> None:
    params = make_params(shapes, dtype, generator)
    optimizer = make(params, **options)
    give(generator, params)
    optimizer.step()
    before = everything(optimizer, params)
    for param in params:
        param.grad.fill_(float("inf"))
    optimizer.found_inf = torch.full((), flag, device=generator.device)
    optimizer.step()
    assert_same_bits(everything(optimizer, params), before)


def never_waits(make, shapes, dtype, generator, **options) -> None:
    """torch raises where a step after the first would synchronise the host."""
    params = make_params(shapes, dtype, generator)
    optimizer = make(params, **options)
    give(generator, params)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


STATE_DTYPES = [{}, {"state_dtype": "bf16"}, {"state_dtype": "8bit"}]


class MeasuringCases:
    """The tests of an optimizer that first measures each tensor: a subclass names its `make`."""

    @pytest.mark.parametrize("shift", [0, 1, 3], ids="shift{}".format)
    @pytest.mark.parametrize("shapes", [EDGES, MANY], ids=["edges", "many"])
    def test_float32_follows_float64(self, shift, shapes, generator):
        follows_the_cpu(self.make, shapes, torch.float32, generator, shift=shift)

    def test_float64_follows_float64(self, generator):
        follows_the_cpu(self.make, EDGES, torch.float64, generator, tolerance=1e-12)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("shift", [0, 1], ids="shift{}".format)
    def test_masters_follow_float64(self, dtype, shift, generator):
        follows_the_cpu(self.make, EDGES, dtype, generator, shift=shift, master="fp32")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("options", STATE_DTYPES, ids=str)
    def test_a_step_repeats_to_the_bit(self, dtype, options, generator):
        repeats_to_the_bit(self.make, EDGES, dtype, generator, **options)

    @pytest.mark.parametrize("flag", [1.0, 2.0, float("nan")])
    @pytest.mark.parametrize("options", STATE_DTYPES, ids=str)
    def test_any_found_inf_skips_everything(self, flag, options, generator):
        skips_wholly(self.make, EDGES, torch.bfloat16, generator, flag, master="fp32", **options)

    def test_the_host_never_waits(self, generator):
        never_waits(self.make, EDGES, torch.float32, generator)
