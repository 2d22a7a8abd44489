"""Muon on CUDA against torch's and the CPU: shapes, alignments, masters, skips, bits."""

import pytest
import torch

from on_both import copies, follows_the_cpu, give, make_params, never_waits, skips_wholly
from pyparallel.optim import Muon

SHAPES = [(0, 3), (1, 1), (5, 7), (7, 5), (5, 7), (300, 301), (64, 33), (1, 9), (64, 33)]
UNIT = 2**-6  # of bfloat16 below 2, twice: two roundings may go the other way


def make(params, **options):
    return Muon(params, lr=0.02, **options)


@pytest.mark.parametrize("shift", [0, 1, 3], ids="shift{}".format)
def test_float32_follows_the_cpu(shift, generator):
    follows_the_cpu(make, SHAPES, torch.float32, generator, shift=shift, tolerance=0.02 * 6 * UNIT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_masters_follow_the_cpu(dtype, generator):
    follows_the_cpu(make, SHAPES, dtype, generator, master="fp32", tolerance=0.02 * 6 * UNIT)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_follows_torch(generator):
    params = make_params(SHAPES[1:], torch.float32, generator)
    expected = copies(params)
    optimizer, reference = make(params), torch.optim.Muon(expected, lr=0.02)
    for _ in range(3):
        give(generator, params, expected)
        optimizer.step()
        reference.step()
    for param, value in zip(params, expected, strict=True):
        torch.testing.assert_close(param, value, rtol=1e-6, atol=0.02 * 6 * UNIT)
        own, other = optimizer.state[param], reference.state[value]
        torch.testing.assert_close(own["momentum_buffer"], other["momentum_buffer"])


@pytest.mark.parametrize("flag", [1.0, 2.0, float("nan")])
@pytest.mark.parametrize("options", [{}, {"state_dtype": "8bit"}], ids=str)
def test_any_found_inf_skips_everything(flag, options, generator):
    skips_wholly(make, SHAPES, torch.bfloat16, generator, flag, master="fp32", **options)


def test_the_host_never_waits(generator):
    never_waits(make, SHAPES, torch.float32, generator)
