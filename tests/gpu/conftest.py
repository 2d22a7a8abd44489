"""The device of the GPU tests, and the reason why they are skipped."""

import pytest
import torch

import pyparallel


@pytest.fixture
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device (torch.cuda.is_available() is False)")
    assert pyparallel.features()["cuda"], (
        "there is a CUDA device, but this build has no CUDA kernels"
    )
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def generator(device) -> torch.Generator:
    """Fresh numbers in every run; the seed is shown when the test fails."""
    generator = torch.Generator(device)
    print(f"seed {generator.seed()}")
    return generator
