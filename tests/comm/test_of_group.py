"""Communicators of torch's groups and meshes: their ranks, made once, independent of each other."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from pyparallel.comm import ShmCommunicator, SoloCommunicator, of_group, of_mesh
from pyparallel.comm.of_group import timeout_of
from ranks import run_ranks


def over_a_mesh() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    rows, columns = of_mesh(mesh, "replicate"), of_mesh(mesh, 1)
    assert isinstance(rows, ShmCommunicator)
    assert of_mesh(mesh, "shard") is columns
    assert of_group(mesh.get_group("shard")) is columns
    assert of_mesh(mesh["shard"]) is columns
    for communicator, expected in ((rows, 2 * (rank % 2) + 2), (columns, 4 * (rank // 2) + 1)):
        total = torch.tensor([float(rank)])
        communicator.all_reduce(total).wait()
        assert total.item() == expected
    solo = [dist.new_group([other]) for other in range(4)][rank]
    assert isinstance(of_group(solo), SoloCommunicator)
    rows.close()
    columns.barrier().wait()
    dist.destroy_process_group()


def test_dimensions_of_a_mesh_have_their_own_communicators() -> None:
    run_ranks(4, over_a_mesh)


def test_the_timeout_is_a_positive_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYPARALLEL_TIMEOUT", "7.5")
    assert timeout_of(None) == 7.5
    assert timeout_of(3) == 3
    assert timedelta(seconds=timeout_of(math.inf)) > timedelta(days=365)
    assert timeout_of(timedelta.max.total_seconds()) * 1e9 < 2**62  # counted in nanoseconds
    with pytest.raises(ValueError, match="positive, it is -1"):
        timeout_of(-1)
    monkeypatch.setenv("PYPARALLEL_TIMEOUT", "soon")
    with pytest.raises(ValueError, match="'soon', not a number"):
        timeout_of(None)
