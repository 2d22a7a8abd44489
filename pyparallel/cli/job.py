"""Measuring on several ranks: a process starts itself again under torchrun, once per world size.

What a rank writes into a file comes back to the first process, which prints and saves it:

    python -m MODULE --ranks 2 4 --> torchrun, 2 ranks --> file --+
                                 --> torchrun, 4 ranks --> file --+--> table, JSON
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist

from pyparallel.context import Context, init

BACKENDS = ("gloo", "pyparallel", "nccl")
# torch.distributed knows them by these names; what is printed is how their authors write them.
_IN_WORDS = {"gloo": "Gloo", "nccl": "NCCL"}


class UnusableError(Exception):
    """The options cannot be carried out here; the message is one sentence."""


class ProcessRanks:
    """The ranks of a torchrun job, joined both in torch process groups and in a Context of ours.

    Attributes:
        context: Ours.
        world_size: Number of ranks.
        groups: The process groups of all ranks by their backends; the default one is the first.
        peer_name: Backend of the default process group, as its authors write it.
    """

    def __init__(self, context: Context, groups: Mapping[str, dist.ProcessGroup]) -> None:
        self.context = context
        self.world_size = context.world_size
        self.groups = dict(groups)
        backend = next(iter(self.groups))
        self.peer_name = _IN_WORDS.get(backend, backend)

    def barrier(self) -> None:
        """Returns when all ranks have called it, within microseconds of each other."""
        self.context.communicator.barrier().wait()

    def slowest(self, seconds: Sequence[float]) -> list[float]:
        """The largest of all ranks' values, place by place."""
        values = torch.tensor(seconds, dtype=torch.float64, device=self.context.device)
        dist.all_reduce(values, dist.ReduceOp.MAX)
        return cast("list[float]", values.tolist())


def is_rank() -> bool:
    """Whether this process was started by torchrun."""
    return "RANK" in os.environ


def launch_all(
    module: Sequence[str],
    world_sizes: Sequence[int],
    *,
    device: str,
    threads: int,
    folder: Path | None = None,
) -> Iterator[str]:
    """Starts one job after the other and yields what its ranks wrote.

    Args:
        module: Name and arguments; ``--rows FILE`` is added, where a rank is to write.
        world_sizes: Ranks of every job.
        device: "cpu" or "cuda"; on the latter every rank needs a GPU of its own.
        threads: Of every rank.
        folder: Where the module is found; default: where this process was started.

    Raises:
        UnusableError: There are not enough GPUs, or a job failed and has said why.
    """
    with tempfile.TemporaryDirectory() as results:
        for world_size in world_sizes:
            if device == "cuda" and world_size > torch.cuda.device_count():
                raise UnusableError(
                    f"{world_size} ranks need {world_size} GPUs, but there are "
                    f"{torch.cuda.device_count()}: choose --ranks"
                )
            path = Path(results) / f"{world_size}.json"
            _launch([*module, "--rows", str(path)], world_size, threads, folder)
            yield path.read_text()


def _launch(module: Sequence[str], world_size: int, threads: int, folder: Path | None) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", str(world_size), "-m", *module]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    finished = subprocess.run(command, cwd=folder, env=environment, check=False)
    if finished.returncode != 0:
        raise UnusableError(f"{world_size} ranks ended with exit code {finished.returncode}")


@contextlib.contextmanager
def joined(*, device: str, threads: int, backends: Sequence[str] = ()) -> Iterator[ProcessRanks]:
    """Joins the job that torchrun started.

    The ranks leave it only when all went well: after an error, waiting for each other could hang.

    Args:
        device: "cpu", where Gloo is the default process group's backend, or "cuda" with NCCL.
        threads: Of this process.
        backends: Of further process groups of all ranks.
    """
    torch.set_num_threads(threads)
    if device == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        dist.init_process_group("nccl", device_id=own)
    else:
        own = torch.device("cpu")
        dist.init_process_group("gloo")
    groups = {default_backend(device): cast("dist.ProcessGroup", dist.group.WORLD)}
    for backend in backends:
        if backend not in groups:
            groups[backend] = dist.new_group(backend=backend)
    context = init(device=own)
    yield ProcessRanks(context, groups)
    dist.barrier()
    context.close()
    dist.destroy_process_group()


def default_backend(device: str) -> str:
    """What torch.distributed uses on a device."""
    return "nccl" if device == "cuda" else "gloo"
