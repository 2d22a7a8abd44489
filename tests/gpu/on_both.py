"""An optimizer on CUDA beside the same one on the CPU, over lists of mixed sizes and alignments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

EDGES = [(0,), (1,), (7,), (9,), (2047,), (2048,), (2049,), (300, 301), (4, 3, 5, 7), (0,)]
MANY = [(1 + index * 37 % 300,) for index in range(1100)]  # more than one launch takes


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
