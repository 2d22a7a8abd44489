"""The optimizers with norms or matrices, lists for them to step, and all that a step leaves."""

from __future__ import annotations

import pytest
import torch

from pyparallel.optim import LAMB, LARS, Adafactor, Muon, NovoGrad

CASES = {
    "lamb": (LAMB, {"lr": 0.02, "weight_decay": 0.125}),
    "lars": (LARS, {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.125, "trust_coefficient": 0.1}),
    "novograd": (NovoGrad, {"lr": 0.02, "weight_decay": 0.125}),
    "adafactor": (Adafactor, {"lr": 0.05, "weight_decay": 0.125, "eps": (1e-7, 1e-3)}),
    "muon": (Muon, {"lr": 0.02}),
}
SHAPES = [(0,), (1,), (513,), (7, 5), (70_001,), (2, 3, 4, 5), (0, 3), (300, 301), (0,)]
MATRICES = [(0, 3), (1, 1), (7, 5), (5, 7), (7, 5), (300, 301), (1, 9), (0, 3)]
KEPT = [
    (torch.float32, {}),
    (torch.float64, {}),
    (torch.float16, {"master": "fp32"}),
    (torch.bfloat16, {"master": "fp32"}),
    (torch.bfloat16, {"master": "remainder"}),
    (torch.bfloat16, {"stochastic_rounding": True, "seed": 5}),
    (torch.bfloat16, {}),
    (torch.float32, {"state_dtype": "bf16"}),
    (torch.float32, {"state_dtype": "8bit"}),
    (torch.bfloat16, {"state_dtype": "8bit", "master": "remainder"}),
]

each = pytest.mark.parametrize("case", CASES)


def each_kept_as(*ways):
    """All optimizers with all ways of keeping values, but for what Adafactor refuses."""
    pairs = [(case, dtype, options) for case in CASES for dtype, options in ways]
    known = [pair for pair in pairs if pair[0] != "adafactor" or "state_dtype" not in pair[2]]
    return pytest.mark.parametrize(("case", "dtype", "options"), known, ids=str)


def shapes_of(case):
    return MATRICES if case == "muon" else SHAPES


def make(case, params, **more):
    cls, options = CASES[case]
    return cls(params, **{**options, **more})


def random_list(case, dtype=torch.float32):
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes_of(case)]


def give(*lists, scale=1.0):
    for params in zip(*lists, strict=True):
        grad = torch.randn(params[0].shape) * scale
        for param in params:
            param.grad = torch.empty_like(param).copy_(grad)


def train(optimizers, *lists, steps=3):
    for step in range(steps):
        give(*lists, scale=10.0 ** -(step % 3))
        for optimizer in optimizers:
            optimizer.step()


def snapshot(optimizer, params):
    states = [{k: v.clone() for k, v in optimizer.state[param].items()} for param in params]
    return [param.detach().clone() for param in params], states


def assert_same_bits(a, b):
    for index, (one, two) in enumerate(zip(a[0], b[0], strict=True)):
        assert torch.equal(one, two), f"parameter {index} of shape {tuple(one.shape)}"
    for index, (one, two) in enumerate(zip(a[1], b[1], strict=True)):
        assert one.keys() == two.keys()
        for key in one:
            assert torch.equal(one[key], two[key]), f"state {key} of parameter {index}"
