"""init(): the place in the job, from the environment or torch's job, or what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

import pyparallel
from pyparallel import context as context_module
from pyparallel.comm import NcclCommunicator, ShmCommunicator, SoloCommunicator
from pyparallel.context import context_of
from ranks import errors_of_ranks, run_ranks

ALONE = dict.fromkeys(("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"))


def place() -> tuple[Any, ...]:
    context = pyparallel.init()
    assert pyparallel.init() is context
    kind = type(context.communicator)
    return context.rank, context.world_size, context.local_rank, context.device, kind


def test_torchruns_environment_is_read() -> None:
    cpu = torch.device("cpu")
    assert run_ranks(2, place) == [(rank, 2, rank, cpu, ShmCommunicator) for rank in (0, 1)]


def test_a_plain_process_is_a_world_of_one() -> None:
    expected = (0, 1, 0, torch.device("cpu"), SoloCommunicator)
    assert run_ranks(1, place, environment=ALONE) == [expected]


def in_a_torch_job() -> list[bool]:
    dist.init_process_group("gloo")
    context = pyparallel.init()
    sub = dist.new_group([0, 1])
    return [
        (context.rank, context.world_size) == (dist.get_rank(), 2),
        isinstance(context.communicator, ShmCommunicator),
        context_of(None) is context,
        context_of(sub) is context_of(sub),
        context_of(sub) is not context,
    ]


def test_an_initialised_torch_job_is_joined() -> None:
    assert run_ranks(2, in_a_torch_job) == [[True] * 5] * 2


def again_after_close() -> bool:
    first = pyparallel.init()
    first.close()
    return pyparallel.init() is not first


def test_a_closed_context_is_not_handed_out_again() -> None:
    assert run_ranks(1, again_after_close, environment=ALONE) == [True]


def joined_three_times() -> list[float]:
    """torchrun's store outlives a context: what an earlier one left there must not be taken."""
    values = []
    for turn in range(3):
        context = pyparallel.init(timeout_seconds=10)
        tensor = torch.full((50_000,), float(turn))
        context.communicator.all_reduce(tensor).wait()
        values.append(tensor[-1].item())
        context.close()
    return values


def test_a_closed_context_may_be_followed_by_another() -> None:
    for _ in range(3):
        assert run_ranks(2, joined_three_times) == [[0.0, 2.0, 4.0]] * 2


def start(timeout_seconds: float | None = None) -> None:
    pyparallel.init(timeout_seconds=timeout_seconds)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": None}, "WORLD_SIZE is missing"),
        ({"RANK": "two"}, "RANK is 'two', not a number"),
        ({"RANK": "5"}, "RANK is 5, which is not in a world of WORLD_SIZE 1"),
        ({"PYPARALLEL_TIMEOUT": "0"}, "the timeout must be positive, it is 0"),
        ({"PYPARALLEL_TIMEOUT": "soon"}, "PYPARALLEL_TIMEOUT is 'soon', not a number"),
    ],
)
def test_a_wrong_environment_is_named(environment: dict[str, str | None], message: str) -> None:
    (error,) = errors_of_ranks(1, start, environment=environment)
    assert isinstance(error, ValueError)
    assert message in str(error)


def test_a_nan_timeout_is_refused() -> None:
    (error,) = errors_of_ranks(1, start, float("nan"), environment=ALONE)
    assert isinstance(error, ValueError)


def test_a_build_without_cuda_says_that_torch_carries_what_is_on_gpus(monkeypatch) -> None:
    group = object()
    monkeypatch.setattr(NcclCommunicator, "is_built", staticmethod(lambda: False))
    monkeypatch.setattr(context_module, "_own_group", lambda *_: group)
    with pytest.warns(UserWarning, match="no CUDA.*torch's NCCL group"):
        assert context_module._over_nccl(0, 2, torch.device("cuda"), 1.0) is group
