"""Lion on CUDA beside the same on the CPU."""

import pytest

from pyparallel.optim import Lion
from step_cases import WAYS, assert_cuda_is_cpu, way_name

HYPERS = [{"lr": 1e-3}, {"lr": 1e-3, "weight_decay": 0.125, "maximize": True}]


@pytest.mark.parametrize("way", WAYS, ids=way_name)
@pytest.mark.parametrize("hyper", HYPERS, ids=str)
def test_cuda_steps_as_the_cpu_does(hyper, way, generator):
    assert_cuda_is_cpu(Lion, hyper, way, generator)
