"""Adagrad on CUDA beside the same on the CPU."""

import pytest

from pyparallel.optim import Adagrad
from step_cases import WAYS, assert_cuda_is_cpu, way_name

HYPERS = [{"lr": 0.01}, {"lr": 0.01, "lr_decay": 0.1, "weight_decay": 0.125, "eps": 0.01}]


@pytest.mark.parametrize("way", WAYS, ids=way_name)
@pytest.mark.parametrize("hyper", HYPERS, ids=str)
def test_cuda_steps_as_the_cpu_does(hyper, way, generator):
    assert_cuda_is_cpu(Adagrad, hyper, way, generator)
