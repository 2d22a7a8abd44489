"""What every optimizer does on CUDA: the same as on the CPU, in every way of keeping values."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import Tensor

from pyparallel.optim._base import FusedOptimizer

SIZES = [0, 1, 7, 8, 9, 127, 128, 129, 2047, 2049, 70_001, 0]
STEPS = 3
WAYS: list[tuple[torch.dtype, dict[str, Any]]] = [
    (torch.float64, {}),
    (torch.float32, {}),
    *product(
        [torch.bfloat16],
        [{}, {"master": "fp32"}, {"master": "remainder"}, {"stochastic_rounding": True}],
    ),
    *product([torch.float16], [{}, {"master": "fp32"}]),
    *product([torch.float32, torch.bfloat16], [{"state_dtype": "bf16"}, {"state_dtype": "8bit"}]),
]


def way_name(way: tuple[torch.dtype, dict[str, Any]]) -> str:
    """A readable test id."""
    dtype, options = way
    return " ".join([str(dtype).removeprefix("torch."), *map(str, options.values())])


def assert_cuda_is_cpu(
    cls: type[FusedOptimizer],
    hyper: dict[str, Any],
    way: tuple[torch.dtype, dict[str, Any]],
    generator: torch.Generator,
) -> None:
    """A few steps on both devices from the same values, over unaligned tensors of all sizes."""
    dtype, options = way
    device = generator.device
    values = [torch.randn(n + 1, generator=generator, device=device).to(dtype) for n in SIZES]
    on_cuda = [torch.nn.Parameter(value[1:]) for value in values]
    on_cpu = [torch.nn.Parameter(value[1:].cpu()) for value in values]
    steps = [cls(params, **hyper, **options) for params in (on_cuda, on_cpu)]
    for _ in range(STEPS):
        for ours, twin in zip(on_cuda, on_cpu, strict=True):
            ours.grad = torch.randn(ours.shape, generator=generator, device=device).to(dtype)
            twin.grad = ours.grad.cpu()
        for optimizer in steps:
            optimizer.step()
    bound = tolerance(dtype, options, hyper["lr"])
    for ours, twin in zip(on_cuda, on_cpu, strict=True):
        torch.testing.assert_close(value_of(ours, steps[0]), value_of(twin, steps[1]), **bound)


def value_of(param: Tensor, optimizer: FusedOptimizer) -> Tensor:
    """The exact value, where it is kept."""
    value = optimizer.state[param].get("master", param)
    return value.detach().cpu().double()


def tolerance(dtype: torch.dtype, options: dict[str, Any], lr: float) -> dict[str, float]:
    """Both round alike; what differs in the last bit may round to a neighbour."""
    if dtype == torch.float64:
        return {"rtol": 1e-12, "atol": 1e-12}
    rounding = 0.0 if options.get("master") == "fp32" else torch.finfo(dtype).eps
    if options.get("state_dtype", "fp32") != "fp32":
        return {"rtol": rounding, "atol": lr}
    return {"rtol": max(rounding, 1e-5), "atol": 1e-2 * lr + rounding}
