"""What each rank of test_several_hosts.py runs: all operations, then work until the end."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import torch

import pyparallel
from pyparallel.comm import HierarchicalCommunicator
from pyparallel.errors import PyparallelError


def check_operations(communicator: HierarchicalCommunicator) -> None:
    rank, world = communicator.rank, communicator.world_size
    for dtype in (torch.float32, torch.bfloat16, torch.int64):
        for count in (1, 1001, 100_003):
            tensor = torch.arange(count).remainder(50).add(rank).to(dtype)
            communicator.all_reduce(tensor).wait()
            assert torch.equal(tensor, torch.arange(count).remainder(50).mul(4).add(6).to(dtype))
    own = torch.full((5,), float(rank))
    everybody = torch.arange(4.0).repeat_interleave(5)
    output = torch.empty(20)
    communicator.all_gather(output, own).wait()
    assert torch.equal(output, everybody)
    communicator.all_to_all(output, torch.arange(4.0).repeat_interleave(5) + 10 * rank).wait()
    assert torch.equal(output, everybody * 10 + rank)
    part = torch.empty(5)
    communicator.reduce_scatter(part, everybody).wait()
    assert part.tolist() == [4.0 * rank] * 5
    for root in range(world):
        tensor = own.clone()
        communicator.broadcast(tensor, root).wait()
        assert tensor.tolist() == [float(root)] * 5
        tensor = own.clone()
        communicator.reduce(tensor, root, "max").wait()
        assert tensor.tolist() == [3.0 if rank == root else float(rank)] * 5
        gathered = torch.empty(20) if rank == root else None
        communicator.gather(gathered, own, root).wait()
        assert gathered is None or torch.equal(gathered, everybody)
        communicator.scatter(part, everybody if rank == root else None, root).wait()
        assert torch.equal(part, own)
    received = torch.empty(5)
    works = [communicator.recv(received, (rank - 1) % world)]
    works.append(communicator.send(own, (rank + 1) % world))
    for work in works:
        work.wait()
    assert received.tolist() == [float((rank - 1) % world)] * 5


def write(folder: Path, name: str, value: object) -> None:
    part = folder / f".{name}"
    part.write_text(json.dumps(value))
    part.rename(folder / name)


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    communicator = pyparallel.init().communicator
    assert isinstance(communicator, HierarchicalCommunicator)
    check_operations(communicator)
    tensor = torch.ones(300_000)
    communicator.barrier().wait()
    write(folder, f"ready{rank}", {})
    try:
        while True:
            communicator.all_reduce(tensor, "max").wait()
    except PyparallelError as error:
        end = {"type": type(error).__name__, "message": str(error), "ended": time.monotonic()}
        write(folder, f"end{rank}", {**end, "lost": getattr(error, "rank", None)})
        time.sleep(3)  # so that nobody learns it from this rank's end


if __name__ == "__main__":
    main()
