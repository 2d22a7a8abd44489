"""The process group: its life, its names, sub-groups, deadlines, and what a failure says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import pyparallel
from pyparallel.comm.backend import PyparallelProcessGroup
from pyparallel.errors import CollectiveTimeoutError, PeerFailedError, PeerLostError
from ranks import Job, errors_of_ranks, meet, run_ranks, tell_test
from torch_job import run_torch_job


def total(group: Any = None) -> float:
    tensor = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(tensor, group=group)
    return tensor.item()


def names_and_properties() -> None:
    group: Any = dist.group.WORLD
    rank, world = dist.get_rank(), dist.get_world_size()
    assert isinstance(group, PyparallelProcessGroup)
    assert dist.get_backend() == "pyparallel"
    assert dist.get_backend_config() == "cpu:pyparallel,cuda:pyparallel"
    assert (group.name(), group.getBackendName()) == ("pyparallel", "pyparallel")
    assert (group.rank(), group.size()) == (rank, world)
    assert group.group_name == dist.distributed_c10d._get_process_group_name(group) != ""
    assert group.group_desc == "default_pg"
    assert group.bound_device_id is None
    assert group.options._timeout == timedelta(minutes=30)
    assert group.options.backend == "pyparallel"
    assert group._get_backend(torch.device("cpu")) is group
    assert torch.device("cpu") in group._device_types
    with pytest.raises(ValueError, match="carries tensors on cpu and cuda, not xla"):
        group._get_backend(torch.device("xla"))
    with pytest.raises(ValueError, match="GLOO backend"):  # torch says so before asking us
        dist.monitored_barrier()
    group.monitored_barrier(timedelta(seconds=30))


def test_names_and_properties() -> None:
    run_torch_job(2, names_and_properties)


def sub_groups() -> None:
    rank = dist.get_rank()
    low, high = dist.new_group([0, 1]), dist.new_group([3, 1, 2])
    if rank < 2:
        assert total(low) == 3
        assert dist.get_backend(low) == "pyparallel"
    if rank > 0:
        assert total(high) == 9
    pair, _ = dist.new_subgroups(2)
    assert total(pair) == (3 if rank < 2 else 7)
    single = dist.new_group([rank], use_local_synchronization=True)
    assert total(single) == rank + 1
    # They fail and close on their own.
    if rank < 2:
        dist.destroy_process_group(low)
    assert total() == 10
    # Ranks of a sub-group are its own; senders are named by their rank in the job.
    if rank > 0:
        tensor = torch.tensor([float(rank)])
        dist.broadcast(tensor, 2, group=high)
        assert tensor.item() == 2
    # torch splits on accelerators only; the group itself can.
    with pytest.raises(RuntimeError, match="No device associated"):
        dist.split_group(split_ranks=[[0, 1], [2, 3]])
    world: Any = dist.group.WORLD
    part = world.split_group([0, 2] if rank in (0, 2) else [3, 1])
    tensor = torch.tensor([float(rank)])
    part.allreduce([tensor]).wait()
    assert tensor.item() == (2 if rank in (0, 2) else 4)
    assert part.rank() == (0 if rank in (0, 3) else 1)
    assert world.split_group([0]) is None or rank == 0


def test_sub_groups() -> None:
    run_torch_job(4, sub_groups)


def again_and_again() -> None:
    for _ in range(3):
        dist.init_process_group("pyparallel")
        assert total() == 3
        # init() and DataParallel use the group's communicator, and leave it open.
        context = pyparallel.init()
        group: Any = dist.group.WORLD
        assert context.communicator is group.communicator
        wrapped = pyparallel.DataParallel(nn.Linear(4, 4))
        wrapped(torch.ones(2, 4)).sum().backward()
        assert pyparallel.init() is context
        other = dist.new_group([0, 1])
        wrapped = pyparallel.DataParallel(nn.Linear(4, 4), process_group=other)
        wrapped(torch.ones(2, 4)).sum().backward()
        context.close()
        assert total() == 3
        pyparallel.init()
        dist.destroy_process_group()
        assert not dist.is_initialized()


def test_a_group_may_be_destroyed_and_made_again() -> None:
    run_ranks(2, again_and_again)


def test_registration_prints_nothing_and_starts_nothing() -> None:
    program = (
        "import pyparallel, threading, torch.distributed as dist\n"
        "assert 'pyparallel' in dist.Backend.backend_list, dist.Backend.backend_list\n"
        "assert dist.Backend.default_device_backend_map['cpu'] == 'gloo'\n"
        "assert threading.active_count() == 1\n"
        "assert not dist.is_initialized()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def alone() -> float:
    dist.init_process_group("pyparallel")
    value = total()
    dist.barrier()
    dist.destroy_process_group()
    return value


@pytest.mark.parametrize("level", ["OFF", "INFO", "DETAIL"])
def test_a_world_of_one_and_every_level_of_debugging(level: str) -> None:
    environment = {"TORCH_DISTRIBUTED_DEBUG": level}
    assert run_ranks(1, alone, environment=environment) == [1]
    assert run_ranks(2, alone, environment=environment) == [3, 3]


def forked_use() -> str:
    dist.init_process_group("pyparallel")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            dist.all_reduce(torch.ones(1))
            text = "no error"
        except Exception as error:
            text = str(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert total() == 3
    return os.read(reader, 1000).decode()


def test_a_forked_child_is_refused_by_name() -> None:
    for text in run_ranks(2, forked_use):
        assert "forked child" in text


def late() -> None:
    meet("started")
    dist.init_process_group("pyparallel", timeout=timedelta(seconds=2))
    try:
        if dist.get_rank() == 1:
            dist.barrier()
    finally:
        meet("over")


def test_the_timeout_of_the_group_is_the_communicators() -> None:
    _, error = errors_of_ranks(2, late)
    assert isinstance(error, CollectiveTimeoutError)
    assert "rank 0" in str(error)


def own_deadline() -> None:
    dist.init_process_group("pyparallel")
    group: Any = dist.group.WORLD
    if dist.get_rank() == 0:
        work = group.allreduce([torch.ones(200_000)])
        with pytest.raises(CollectiveTimeoutError, match=r"all_reduce was waited for 0\.2 s"):
            work.wait(timedelta(seconds=0.2))
        meet("waited")
        work.wait()
    else:
        meet("waited")
        dist.all_reduce(torch.ones(200_000))


def test_a_wait_with_a_deadline_leaves_the_operation_in_flight() -> None:
    run_ranks(2, own_deadline)


def polled() -> None:
    operations = [
        lambda: dist.barrier(async_op=True),
        lambda: dist.all_reduce(torch.ones(200_000), async_op=True),
        lambda: dist.all_reduce(torch.ones(3), async_op=True),
        lambda: dist.all_gather(
            [torch.empty(50_000) for _ in range(2)], torch.ones(50_000), async_op=True
        ),
    ]
    for operation in operations:
        work = operation()
        deadline = time.monotonic() + 30
        while not work.is_completed():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert work.is_success()


def test_asking_is_enough_to_be_completed() -> None:
    run_torch_job(2, polled)


def aborted() -> None:
    dist.init_process_group("pyparallel")
    group: Any = dist.group.WORLD
    meet("joined")
    if dist.get_rank() == 1:
        group.abort()
        return
    dist.barrier()


def test_abort_ends_the_others_by_name() -> None:
    error = errors_of_ranks(2, aborted)[0]
    assert isinstance(error, PeerFailedError)
    assert error.rank == 1


def uncaught() -> None:
    dist.init_process_group("pyparallel")
    dist.barrier()
    if dist.get_rank() == 1:
        try:
            raise KeyError("a mistake")
        except KeyError:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # as an interpreter does
        return
    dist.barrier()


def test_an_uncaught_exception_is_told_to_the_others() -> None:
    error = errors_of_ranks(2, uncaught)[0]
    assert isinstance(error, PeerFailedError)
    assert (error.rank, "KeyError: 'a mistake'" in error.cause) == (1, True)


def train_forever(overlap: bool) -> None:
    dist.init_process_group("pyparallel")
    wrapper = nn.parallel.DistributedDataParallel(nn.Linear(300, 300), bucket_cap_mb=0.1)
    for step in range(1_000_000):
        if step == 3:
            tell_test("training")
        wrapper(torch.randn(8, 300)).square().sum().backward()
        wrapper.zero_grad()


@pytest.mark.parametrize("ranks_on_host", [1, 1000], ids=["free cores", "no free core"])
def test_a_rank_killed_in_training_is_named_to_the_others_in_backward(ranks_on_host: int) -> None:
    environment = {"LOCAL_WORLD_SIZE": str(ranks_on_host)}
    with Job(3, train_forever, True, environment=environment) as job:
        for rank in range(3):
            assert job.receive(rank) == "training"
        time.sleep(0.2)
        killed_ns = job.kill(1)
        outcomes = job.outcomes()
        exit_codes = [process.exitcode for process in job._processes]
    for rank in (0, 2):
        error = outcomes[rank].error
        assert isinstance(error, RuntimeError)
        assert "rank 1" in str(error)
        assert "died" in str(error)
        assert (outcomes[rank].ended_ns - killed_ns) / 1e9 < 2
        assert exit_codes[rank] == 0  # it raised; it did not crash


def lost_in_functional() -> None:
    dist.init_process_group("pyparallel")
    from torch.distributed import _functional_collectives as functional

    meet("joined")
    if dist.get_rank() == 1:
        os._exit(0)
    group: Any = dist.group.WORLD
    functional.wait_tensor(functional.all_reduce(torch.ones(200_000), "sum", group))


def test_an_error_keeps_its_type_through_functional_collectives() -> None:
    error = errors_of_ranks(2, lost_in_functional)[0]
    assert isinstance(error, PeerLostError)
    assert error.rank == 1
