"""RMSprop on CUDA beside the same on the CPU."""

import pytest

from pyparallel.optim import RMSprop
from step_cases import WAYS, assert_cuda_is_cpu, way_name

HYPERS = [{"lr": 0.01, "eps": 0.01}, {"lr": 0.01, "momentum": 0.9, "centered": True, "eps": 0.1}]


@pytest.mark.parametrize("way", WAYS, ids=way_name)
@pytest.mark.parametrize("hyper", HYPERS, ids=str)
def test_cuda_steps_as_the_cpu_does(hyper, way, generator):
    assert_cuda_is_cpu(RMSprop, hyper, way, generator)
