"""Compression on CUDA: what the CPU gives, on every scheme, dtype and bucket."""

import pytest
import torch

from compressed import SCHEMES, steps
from pyparallel.comm.compression import PowerSGD, TopK
from thread_world import run_threads

CASES = [
    pytest.param(scheme, dtype, id=f"{type(scheme).__name__}-{dtype}")
    for scheme in SCHEMES
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
    # Of equally large elements the devices may choose others: float32 has hardly any.
    if not isinstance(scheme, TopK) or dtype == torch.float32
]


@pytest.mark.parametrize(("scheme", "dtype"), CASES)
def test_cuda_and_the_cpu_agree(scheme, dtype, device, seed):
    def run(communicator):
        return steps(communicator, scheme, seed, dtype=dtype, count=3)

    pairs = zip(run_threads(2, run, device=device), run_threads(2, run), strict=True)
    rounding = 8 * max(torch.finfo(dtype).eps, 1e-4 if isinstance(scheme, PowerSGD) else 1e-7)
    for (results, errors), (expected, expected_errors) in pairs:
        for step, (result, values) in enumerate(zip(results, expected, strict=True)):
            for name, value in values.items():
                atol = rounding * float(value.abs().max())
                torch.testing.assert_close(
                    result[name].cpu(),
                    value,
                    rtol=0,
                    atol=atol,
                    msg=lambda text, name=name, step=step: f"{name}, step {step}: {text}",
                )
        assert errors.keys() == expected_errors.keys()
