"""Adafactor on CUDA against the CPU in float64: sizes, alignments, masters, skips, bits."""

import pytest
import torch

from on_both import EDGES, MANY, follows_the_cpu, never_waits, repeats_to_the_bit, skips_wholly
from pyparallel.optim import Adafactor


def make(params, **options):
    return Adafactor(params, lr=0.05, eps=(1e-7, 1e-3), weight_decay=0.125, **options)


@pytest.mark.parametrize("shift", [0, 1, 3], ids="shift{}".format)
@pytest.mark.parametrize("shapes", [EDGES, MANY], ids=["edges", "many"])
def test_float32_follows_float64(shift, shapes, generator):
    follows_the_cpu(make, shapes, torch.float32, generator, shift=shift, tolerance=1e-5)


def test_float64_follows_float64(generator):
    follows_the_cpu(make, EDGES, torch.float64, generator, tolerance=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shift", [0, 1], ids="shift{}".format)
def test_masters_follow_float64(dtype, shift, generator):
    follows_the_cpu(make, EDGES, dtype, generator, shift=shift, master="fp32", tolerance=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}], ids=str)
def test_a_step_repeats_to_the_bit(dtype, options, generator):
    repeats_to_the_bit(make, EDGES, dtype, generator, **options)


@pytest.mark.parametrize("flag", [1.0, 2.0, float("nan")])
@pytest.mark.parametrize("options", [{}], ids=str)
def test_any_found_inf_skips_everything(flag, options, generator):
    skips_wholly(make, EDGES, torch.bfloat16, generator, flag, master="fp32", **options)


def test_the_host_never_waits(generator):
    never_waits(make, EDGES, torch.float32, generator)
