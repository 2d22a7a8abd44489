"""Every instruction set computes the same: casts, sums and reductions to the bit, Adam closely."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyparallel

ISAS = ["baseline", "avx2", "avx512"]
COMPUTE = """
import os, pickle, sys, threading
import torch
import pyparallel
from pyparallel import _tensors
from pyparallel._block_codec import decode_blocks, encode_blocks, num_blocks
from pyparallel._native import core

torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[1]))
sizes = (1, 7, 16, 511, 513, 70_001)
inf = float("inf")
special = torch.tensor([float("nan"), inf, -inf, -0.0, 65519.0, 65520.0, 3e-8, 1e-40])
result = {"isa": pyparallel.features()["isa"]}
floats = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
for source in floats:
    tensors = [torch.cat([torch.randn(size), special]).to(source) for size in sizes]
    finite = [torch.randn(size).to(source) for size in sizes]
    result[f"sum {source}"] = _tensors.sum_of_squares(finite)
    for target in floats:
        for scale in (1.0, 0.3):
            flat = torch.zeros(sum(tensor.numel() for tensor in tensors), dtype=target)
            offsets = torch.tensor([0] + [tensor.numel() for tensor in tensors]).cumsum(0)[:-1]
            _tensors.pack(tensors, flat, offsets.tolist(), scale=scale)
            result[f"pack {source} {target} {scale}"] = flat
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for master in (None, "fp32"):
        params = [torch.randn(size).to(dtype).requires_grad_() for size in sizes]
        optimizer = pyparallel.optim.AdamW(params, lr=0.01, amsgrad=True, master=master)
        for _ in range(3):
            for param in params:
                param.grad = torch.randn_like(param)
            optimizer.step()
        for index, param in enumerate(params):
            for key, value in optimizer.state[param].items():
                result[f"adam {dtype} {master} {index} {key}"] = value
for dtype in (*floats, torch.int32, torch.int64, torch.uint8, torch.int8, torch.int16):
    sources = [torch.randn(20_011).mul_(100).to(dtype) for _ in range(3)]
    for name, op in core.Accumulation.__members__.items():
        multiply = dtype.is_floating_point
        squares = torch.zeros(2, dtype=torch.float64)
        output, factors = torch.empty_like(sources[0]), [0.3, -2.0, 1.0] if multiply else []
        core.accumulate(
            output.data_ptr(), _tensors.addresses(sources), factors, output.numel(),
            _tensors.DTYPE_CODES[dtype], op, 0.7 if multiply else 1.0,
            squares.data_ptr() if multiply and name == "sum" else 0, 0, -1, 0, 1,
        )
        result[f"accumulate {dtype} {name}"] = output
        result[f"squares {dtype} {name}"] = squares
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    error, codes = torch.randn(20_011), torch.empty(20_011, dtype=torch.int8)
    values, scales = torch.randn(20_011).to(dtype), torch.empty(num_blocks(20_011))
    values[5000] = inf
    encode_blocks(values, codes, scales, error=error)
    output = torch.randn(20_011).to(dtype)
    decode_blocks(codes, scales, output, factor=0.3, add=True)
    for name, tensor in zip(("codes", "scales", "error", "output"), (codes, scales, error, output)):
        result[f"codec {dtype} {name}"] = tensor

control = core.ShmCommunicator.create_control(2)  # two ranks as two threads of this process
ranks = [core.ShmCommunicator(control, rank, [os.getpid()] * 2, 20.0) for rank in (0, 1)]
operands = {
    dtype: [torch.randn(20_011).mul_(100).to(dtype) for _ in ranks]
    for dtype in (*floats, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
}
def collective(rank):
    ranks[rank].join()
    for dtype, tensors in operands.items():
        for name, op in core.Reduction.__members__.items():
            if name in ("mean", "premultiplied") and not dtype.is_floating_point:
                continue
            tensor = tensors[rank].clone()
            place, code = tensor.data_ptr(), _tensors.DTYPE_CODES[dtype]
            kind, factor = core.Kind.all_reduce, 0.3 - rank
            work = ranks[rank].combine(
                kind, place, place, tensor.numel(), code, 0, op, factor, False, 0, False
            )
            ranks[rank].wait(work)
            result[f"combine {rank} {dtype} {name}"] = tensor
other = threading.Thread(target=collective, args=(1,))
other.start()
collective(0)
other.join()
pickle.dump(result, open(sys.argv[2], "wb"))
"""


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> dict[str, dict[str, torch.Tensor]]:
    """What each instruction set of this CPU computes from the same seed."""
    folder: Path = tmp_path_factory.mktemp("isa")
    found = {}
    for isa in ISAS[: ISAS.index(pyparallel.features()["isa"]) + 1]:
        path = folder / isa
        subprocess.run(
            [sys.executable, "-c", COMPUTE, str(request.config.getoption("--seed")), str(path)],
            env={**os.environ, "PYPARALLEL_ISA": isa},
            check=True,
        )
        found[isa] = pickle.loads(path.read_bytes())
        assert found[isa].pop("isa") == isa
    return found


def test_casts_sums_and_reductions_agree_to_the_bit(results):
    for isa, values in results.items():
        for key, value in values.items():
            if not key.startswith("adam"):
                expected = results["baseline"][key]
                assert bits(value) == bits(expected), f"{isa}: {key}"


def test_adam_agrees_closely(results):
    for isa, values in results.items():
        for key, value in values.items():
            if key.startswith("adam"):
                torch.testing.assert_close(
                    value,
                    results["baseline"][key],
                    rtol=1e-6,
                    atol=1e-6,
                    msg=lambda text, isa=isa, key=key: f"{isa}: {key}: {text}",
                )


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes, but one NaN for all."""
    if tensor.is_floating_point():
        tensor = torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor)
    return bytes(tensor.view(torch.uint8).numpy())
