"""DeepSpeed's shared-memory all-reduce as a peer, where DeepSpeed is installed and its op builds.

It belongs into an environment of its own, beside what the benchmarks need; ninja and a C++
compiler, which build the op at first use, must be in PATH:

    DS_BUILD_OPS=0 pip install --no-deps --no-build-isolation deepspeed
    pip install einops hjson msgpack py-cpuinfo pydantic tqdm

Nothing of DeepSpeed is in this repository. What is called here is what its deepspeed/comm/torch.py
calls; the op's sources are its csrc/cpu/comm/shm*.cpp (version 0.19.8).
"""

import importlib.util
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.ranks import ProcessRanks
from pyparallel.cli.collectives import Case
from pyparallel.cli.ways import Run, Way

NOT_INSTALLED = "DeepSpeed not installed"
SEGMENTS = Path("/dev/shm")


def way(ranks: ProcessRanks, dtype: torch.dtype) -> Way | str:
    """Sums of float32, bfloat16 or float16; or, in words, why there are none.

    Synchronises all ranks, which get the same answer.
    """
    problem = NOT_INSTALLED if importlib.util.find_spec("deepspeed") is None else ""
    for turn in ("first", "others"):  # the first rank builds what the others load
        if (turn == "first") == (ranks.context.rank == 0) and not problem:
            problem = _problem_of_loading(dtype)
        if ranks.slowest([float(bool(problem))])[0]:
            return problem or "DeepSpeed's op does not load on another rank"
    _join(ranks)
    return Way(f"DeepSpeed {version('deepspeed')}", bind)


def bind(ranks: ProcessRanks, case: Case, send: Tensor, receive: Tensor) -> Run:
    """Its only operation: a sum over all ranks, in place."""
    all_reduce = torch.ops.deepspeed.inference_all_reduce_.default
    return lambda: all_reduce(receive)


def _load():
    from deepspeed.ops.op_builder import ShareMemCommBuilder

    return ShareMemCommBuilder().load(verbose=False)


def _problem_of_loading(dtype: torch.dtype) -> str:
    try:
        level = _load().vector_kernel_level()
    except Exception as error:  # whatever a compiler or its loader says
        return f"DeepSpeed's op does not build: {str(error).partition(chr(10))[0]}"
    # As deepspeed/comm/torch.py asks before it calls: AVX2 for float32, AVX-512 for 16 bits.
    enough = level >= (1 if dtype == torch.float32 else 2)
    return "" if enough else "DeepSpeed's op has no kernel for this CPU"


def _join(ranks: ProcessRanks) -> None:
    """Maps its segments and takes their names away, which it would leave in /dev/shm for ever."""
    os.environ["LOCAL_SIZE"] = str(ranks.world_size)
    _load().initialize(ranks.world_size, ranks.context.rank)
    ranks.barrier()
    place = f"{os.getuid()}_{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}"
    with suppress(FileNotFoundError):
        (SEGMENTS / f"deepspeed_allreduce_buffer_{place}_{ranks.context.rank}").unlink()
