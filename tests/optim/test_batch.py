"""A table of addresses is kept while it is true, and not one step longer."""

from __future__ import annotations

import collections
import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from adam_reference import AdamReference, assert_follows, copies, give_random_grads, random_params
from pyparallel._native import core
from pyparallel.optim import Adam, adam


class CountingTable:
    """The native table, counting how often it is built and stepped."""

    built = stepped = 0

    def __init__(self, *columns: Any) -> None:
        CountingTable.built += 1
        self._table = core.AdamTable(*columns)

    def set_grads(self, grads: list[int]) -> None:
        self._table.set_grads(grads)

    def step(self, **options: Any) -> None:
        CountingTable.stepped += 1
        self._table.step(**options)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> type[CountingTable]:
    CountingTable.built = CountingTable.stepped = 0
    monkeypatch.setattr(adam, "core", SimpleNamespace(AdamTable=CountingTable))
    return CountingTable


def test_one_native_call_per_step_and_one_table_for_all_steps(counts):
    params = random_params([7] * 300)
    optimizer = Adam(params)
    for step in range(5):
        if step % 2:
            optimizer.zero_grad()  # other gradient tensors
        give_random_grads(params)
        optimizer.step()
    assert (counts.built, counts.stepped) == (1, 5)


def test_one_native_call_per_dtype_and_group(counts):
    params = random_params([3, 4]) + random_params([5, 6], torch.bfloat16)
    optimizer = Adam([{"params": params[::2]}, {"params": params[1::2], "lr": 0.1}])
    give_random_grads(params)
    optimizer.step()
    optimizer.step()
    assert (counts.built, counts.stepped) == (4, 8)


def other_gradient(param: Tensor, optimizer: Adam) -> None:
    param.grad = torch.randn_like(param)


def other_memory_of_the_gradient(param: Tensor, optimizer: Adam) -> None:
    assert param.grad is not None
    param.grad.data = torch.randn_like(param)


def transposed_memory_of_the_gradient(param: Tensor, optimizer: Adam) -> None:
    assert param.grad is not None
    param.grad.data = torch.randn(4, 4).t()


def other_memory_of_the_parameter(param: Tensor, optimizer: Adam) -> None:
    param.data = torch.randn_like(param)


def the_same_state_elsewhere(param: Tensor, optimizer: Adam) -> None:
    state = optimizer.state[param]
    for key, value in state.items():
        state[key] = value.clone()


def the_same_state_elsewhere_through_data(param: Tensor, optimizer: Adam) -> None:
    for value in optimizer.state[param].values():
        value.data = value.clone()


def written_in_place(param: Tensor, optimizer: Adam) -> None:
    with torch.no_grad():
        param.mul_(2)
        optimizer.state[param]["exp_avg"].mul_(3)
        optimizer.state[param]["step"].add_(4)


CHANGES = [
    other_gradient,
    other_memory_of_the_gradient,
    transposed_memory_of_the_gradient,
    other_memory_of_the_parameter,
    the_same_state_elsewhere,
    the_same_state_elsewhere_through_data,
    written_in_place,
]


@pytest.mark.filterwarnings("ignore:the gradient of parameter")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("victim", [0, 1])
def test_whatever_is_replaced_between_steps_is_noticed(change, victim):
    """The reference looks at everything anew in every step."""
    params = [torch.randn(4, 4).requires_grad_() for _ in range(2)]
    optimizer = Adam(params, lr=0.1)
    for _ in range(2):
        give_random_grads(params)
        optimizer.step()
    change(params[victim], optimizer)
    references = []
    for param in params:
        state = optimizer.state[param]
        reference = AdamReference(param, lr=0.1)
        reference.exp_avg = state["exp_avg"].double()
        reference.exp_avg_sq = state["exp_avg_sq"].double()
        reference.count = int(state["step"].item())
        references.append(reference)
    for _ in range(2):
        for param, reference in zip(params, references, strict=True):
            reference.step(param.grad)
        gc.collect()
        optimizer.step()
    assert_follows(optimizer, params, references)


@pytest.mark.parametrize(
    "reset",
    [
        lambda optimizer, param: setattr(optimizer, "state", collections.defaultdict(dict)),
        lambda optimizer, param: optimizer.state.clear(),
        lambda optimizer, param: optimizer.state.pop(param),
        lambda optimizer, param: optimizer.state.update({param: {}}),
        lambda optimizer, param: optimizer.state[param].clear(),
    ],
    ids=["state = {}", "clear", "pop", "update", "clear the parameter's"],
)
def test_a_reset_state_starts_anew(reset):
    (param,) = random_params([9])
    optimizer = Adam([param], lr=0.1)
    give_random_grads([param])
    optimizer.step()
    reset(optimizer, param)
    reference = AdamReference(param, lr=0.1)
    for _ in range(2):
        reference.step(param.grad)
        optimizer.step()
    assert_follows(optimizer, [param], [reference])


def test_amsgrad_may_be_switched_on_and_off():
    params = random_params([9, 10])
    optimizer = Adam(params, lr=0.1)
    references = [AdamReference(param, lr=0.1) for param in params]
    for step in range(6):
        give_random_grads(params, scale=10.0**-step)
        on = step in (2, 3)
        optimizer.param_groups[0]["amsgrad"] = on
        for param, reference in zip(params, references, strict=True):
            reference.amsgrad = on
            if step == 2:
                reference.max_exp_avg_sq.zero_()
            kept = reference.max_exp_avg_sq.clone()
            reference.step(param.grad)
            if not on:
                reference.max_exp_avg_sq.copy_(kept)
        optimizer.step()
        assert_follows(optimizer, params, references)
    (late,) = random_params([3])
    late.grad = torch.ones(3)
    optimizer.add_param_group({"params": [late]})
    optimizer.step()


@pytest.mark.parametrize("key", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(3),
        torch.zeros(4, 4, dtype=torch.float64),
        torch.zeros(4, 4, dtype=torch.bfloat16),
        torch.zeros(4, 4).t(),
        torch.zeros(4, 4, device="meta"),
    ],
    ids=["shape", "float64", "bfloat16", "order", "device"],
)
def test_a_state_that_does_not_fit_is_refused(key, bad):
    param = torch.ones(4, 4, requires_grad=True)
    param.grad = torch.ones(4, 4)
    optimizer = Adam([param])
    optimizer.step()
    before = param.detach().clone()
    optimizer.state[param][key] = bad
    with pytest.raises(ValueError, match=f"state '{key}'"):
        optimizer.step()
    assert torch.equal(param, before)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_parameter_that_shrank_is_refused(fresh):
    param = torch.ones(10, requires_grad=True)
    param.grad = torch.ones(10)
    optimizer = Adam([param])
    optimizer.step()
    param.grad = None
    param.data = param.data[:5]  # the same address
    param.grad = torch.ones(5)
    if fresh:
        optimizer.state[param]["exp_avg"] = torch.zeros(5)
    with pytest.raises(ValueError, match=r"shape \(10,\), it must be \(5,\)"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("write", ["data", "copy_", "load_state_dict"])
def test_masters_take_what_was_written_to_their_parameter(dtype, write):
    layer = torch.nn.Linear(5, 5, bias=False).to(dtype)
    param = layer.weight
    optimizer = Adam([param], lr=0.1, master="fp32")
    param.grad = torch.ones_like(param)
    optimizer.step()
    value = (torch.randn(5, 5) + 100).to(dtype)
    if write == "data":
        param.data = value.clone()
    elif write == "copy_":
        with torch.no_grad():
            param.copy_(value)
    else:
        layer.load_state_dict({"weight": value})
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(param, value)
    assert torch.equal(optimizer.state[param]["master"], value.float())


def test_long_lists_notice_replaced_state_memory_or_say_so():
    """Lists beyond 256 tensors look at one tensor's memory per step."""
    params = random_params([3] * 400)
    twins = copies(params)
    optimizers = Adam(params, lr=0.1), Adam(twins, lr=0.1)
    for optimizer in optimizers:
        give_random_grads(params, twins)
        optimizer.step()
    for state in optimizers[0].state.values():
        state["exp_avg"].data = state["exp_avg"].clone()
    give_random_grads(params, twins)
    for optimizer in optimizers:
        optimizer.step()
    optimizers[0].state[params[77]]["exp_avg"].data = torch.full((3,), 9.0)

    def go_round():
        for _ in range(401):
            optimizers[0].step()

    with pytest.raises(RuntimeError, match=r"memory of some 'exp_avg' states was replaced"):
        go_round()
