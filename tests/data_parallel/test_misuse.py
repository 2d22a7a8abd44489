"""What would make the ranks drift apart without a word is refused with one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pyparallel
from models import TwoBranches
from pyparallel import DataParallel
from pyparallel.errors import PeerLostError
from ranks import Job, errors_of_ranks, run_ranks, tell_test


class Shell(nn.Module):
    """Has a part called "module" and another weight beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.module = nn.Linear(2, 2)


def clashing_checkpoints() -> None:
    pyparallel.init()
    shell = Shell()
    model = DataParallel(shell)
    plain = {key: value + 5 for key, value in Shell().state_dict().items()}
    prefixed = {f"module.{key}": value + 1 for key, value in plain.items()}
    for state, expected in ((plain, 5), (prefixed, 6)):
        before = dict(state)
        model.load_state_dict(state)
        assert bool((shell.weight == expected).all())
        assert torch.equal(shell.module.bias, state.get("module.module.bias", plain["module.bias"]))
        assert state == before  # the caller's dict is the caller's


def test_a_part_called_module_is_no_prefix() -> None:
    run_ranks(1, clashing_checkpoints)


def assigned_parameters() -> None:
    pyparallel.init()
    model = DataParallel(nn.Linear(2, 2))
    before = model.module.weight
    state = {key: value + 1 for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"assign=True\) would replace the parameters"):
        model.load_state_dict(state, assign=True)
    assert model.module.weight is before


def test_parameters_may_not_be_replaced_under_the_wrapper() -> None:
    run_ranks(1, assigned_parameters)


def unfrozen_later() -> None:
    pyparallel.init()
    module = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2))
    model = DataParallel(module)
    model(torch.ones(1, 2)).sum().backward()
    module[0].requires_grad_(True)
    model(torch.ones(1, 2))


def test_a_parameter_unfrozen_after_wrapping_is_named() -> None:
    for error in errors_of_ranks(2, unfrozen_later):
        assert isinstance(error, RuntimeError)
        assert "'0.weight' was frozen when its module was wrapped" in str(error)


def frozen_later() -> None:
    pyparallel.init()
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model = DataParallel(module)
    module[0].requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()


def test_a_parameter_frozen_after_wrapping_is_named() -> None:
    for error in errors_of_ranks(2, frozen_later):
        assert isinstance(error, RuntimeError)
        assert "'0.bias', '0.weight'" in str(error)
        assert "before wrapping" in str(error)


def wrapped_twice() -> list[float]:
    rank = pyparallel.init().rank
    module = nn.Linear(1, 1)
    first = DataParallel(module)
    first(torch.ones(1, 1)).sum().backward()
    second = DataParallel(module)
    second.zero_grad()
    second(torch.full((1, 1), rank + 1.0)).sum().backward()
    assert module.weight.grad is not None
    return module.weight.grad.item()


def test_wrapping_again_changes_no_gradient() -> None:
    assert run_ranks(2, wrapped_twice) == [1.5, 1.5]


def uneven_inputs() -> None:
    rank = pyparallel.init().rank
    model = DataParallel(nn.Linear(2, 2))
    for _ in range(2 + rank):
        model(torch.ones(1, 2)).sum().backward()


def test_a_rank_with_fewer_batches_is_named_and_nobody_hangs() -> None:
    with Job(3, uneven_inputs) as job:
        outcomes = job.outcomes()
    assert outcomes[0].error is None
    assert all(isinstance(outcome.error, PeerLostError) for outcome in outcomes[1:])
    assert outcomes[2].error.rank in (0, 1)
    assert max(o.ended_ns for o in outcomes) - outcomes[0].ended_ns < 10_000_000_000


def train_forever() -> None:
    pyparallel.init()
    model = DataParallel(nn.Sequential(*[nn.Linear(300, 300) for _ in range(4)]), bucket_cap_mb=0.3)
    optimizer = pyparallel.optim.AdamW(model.parameters())
    for step in range(10**6):
        model(torch.randn(4, 300)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 3:
            tell_test("training")


def test_a_rank_killed_in_training_is_named_within_two_seconds() -> None:
    with Job(3, train_forever) as job:
        for rank in range(3):
            job.receive(rank)
        killed = job.kill(1)
        outcomes = job.outcomes()
    for outcome in (outcomes[0], outcomes[2]):
        assert isinstance(outcome.error, PeerLostError)
        assert outcome.error.rank == 1
        assert outcome.ended_ns - killed < 2_000_000_000


def grads_without_backward() -> None:
    """torch.autograd.grad, evaluation and no_grad reduce nothing and leave nothing behind."""
    rank = pyparallel.init().rank
    model = DataParallel(TwoBranches(), find_unused_parameters=True)
    x = torch.ones(1, 4)
    if rank == 1:
        torch.autograd.grad(model(x, "left right"), [model.module.left.weight])
        with torch.no_grad():
            model.eval()
            model(x, "never")
            model.train()
    model(x * (rank + 1), "left").backward()
    bias, weight = model.module.left.bias.grad, model.module.left.weight.grad
    assert bias is not None
    assert weight is not None
    assert bool((weight == 1.5).all())


def test_only_backward_reduces() -> None:
    run_ranks(2, grads_without_backward)
