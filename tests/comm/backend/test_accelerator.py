"""Tensors on an accelerator go to torch's own group. No test here needs one: routing is by device.

What is left for a machine with GPUs: that NCCL itself works in the group that is made.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllreduceOptions, BarrierOptions

from pyparallel.comm.backend.accelerator import nccl_group, over
from pyparallel.comm.solo import SoloCommunicator
from torch_job import run_torch_job


class Recorder:
    """Stands for the group of the device: answers every call with the call itself."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: (name, args)


def calls_with_tensors_elsewhere() -> None:
    group: Any = dist.group.WORLD
    devices: list[torch.device] = []
    recorder = Recorder()

    def device_group(device: torch.device) -> Recorder:
        devices.append(device)
        return recorder

    group.device_group = device_group
    there, options = torch.empty(4, device="meta"), AllreduceOptions()
    for name, args in (
        ("allreduce", ([there], options)),
        ("allreduce_coalesced", ([there, there], options)),
        ("reduce", ([there], options)),
        ("reduce_scatter", ([there], [[there, there]], options)),
        ("reduce_scatter_single", (there, there, options)),
        ("reduce_scatter_single_coalesced", ([there], [there], options)),
        ("broadcast", ([there], options)),
        ("allgather", ([[there, there]], [there], options)),
        ("all_gather_single", (there, there, options)),
        ("all_gather_single_coalesced", ([there], [there], options)),
        ("_reduce_scatter_base", (there, there, options)),
        ("reduce_scatter_tensor_coalesced", ([there], [there], options)),
        ("_allgather_base", (there, there, options)),
        ("allgather_into_tensor_coalesced", ([there], [there], options)),
        ("alltoall_base", (there, there, [], [], options)),
        ("allgather_coalesced", ([[there], [there]], [there], options)),
        ("gather", ([], [there], options)),  # as on all ranks but the root
        ("scatter", ([there], [], options)),
        ("all_to_all_single", (there, there, [], [], options)),
        ("alltoall", ([there, there], [there, there], options)),
        ("send", ([there], 1, 0)),
        ("recv", ([there], 1, 0)),
        ("recv_anysource", ([there], 0)),
    ):
        result_name, result_args = getattr(group, name)(*args)
        assert result_name == name
        assert all(a is b for a, b in zip(result_args, args, strict=True))
    assert {device.type for device in devices} == {"meta"}
    barrier = BarrierOptions()
    barrier.device_ids, barrier.device = [0], torch.device("cuda", 0)
    assert group.barrier(barrier) == ("barrier", (barrier,))
    cuda = torch.device("cuda", 0)
    group._start_coalescing(cuda)
    assert group._end_coalescing(cuda) == ("_end_coalescing", (cuda,))
    assert group._get_backend(cuda) == ("_get_backend", (cuda,))
    # Tensors here stay here.
    tensor = torch.ones(3)
    group.allreduce([tensor]).wait()
    assert tensor.tolist() == [2, 2, 2]


def test_a_tensor_elsewhere_goes_to_the_group_of_its_device() -> None:
    run_torch_job(2, calls_with_tensors_elsewhere)


def over_gloo() -> None:
    group: Any = dist.group.WORLD
    store = dist.PrefixStore("inner", group.get_group_store())
    backend = dist.ProcessGroupGloo(
        store, dist.get_rank(), dist.get_world_size(), timedelta(seconds=30)
    )
    inner = over(backend, dist.ProcessGroup.BackendType.GLOO, "cpu", store, "inner")
    assert (inner.rank(), inner.size(), inner.group_name) == (dist.get_rank(), 2, "inner")
    tensor = torch.ones(3)
    inner.allreduce([tensor]).wait()
    assert tensor.tolist() == [2, 2, 2]
    assert inner._get_backend(torch.device("cpu")) is backend


def test_a_group_of_one_backend_works() -> None:
    run_torch_job(2, over_gloo)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "carries tensors on cpu and cuda, not meta"),
        pytest.param(
            "cuda:0",
            "tensors on cuda:0 need NCCL",
            marks=pytest.mark.skipif(dist.is_nccl_available(), reason="this torch has NCCL"),
        ),
    ],
)
def test_a_device_without_a_group_is_refused_by_name(device: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nccl_group(
            torch.device(device),
            dist.HashStore(),
            SoloCommunicator(torch.device("cpu")),
            timeout=timedelta(seconds=1),
            name="x",
            global_ranks=[],
        )
