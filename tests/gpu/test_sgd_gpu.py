"""SGD with momentum on CUDA beside the same on the CPU."""

import pytest

from pyparallel.optim import SGD
from step_cases import WAYS, assert_cuda_is_cpu, way_name

HYPERS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.125},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
]


@pytest.mark.parametrize("way", WAYS, ids=way_name)
@pytest.mark.parametrize("hyper", HYPERS, ids=str)
def test_cuda_steps_as_the_cpu_does(hyper, way, generator):
    assert_cuda_is_cpu(SGD, hyper, way, generator)
