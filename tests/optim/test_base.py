"""FusedOptimizer keeps torch's contracts: hooks, zero_grad, version counters, all or nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adam_reference import give_random_grads, random_params
from pyparallel.optim import Adam, AdamW


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autograd_sees_that_a_saved_parameter_was_overwritten(dtype):
    layer = nn.Linear(3, 3).to(dtype)
    optimizer = Adam(layer.parameters())
    x = torch.ones(1, 3, dtype=dtype, requires_grad=True)
    y = layer(x)
    versions = [param._version for param in layer.parameters()]
    y.sum().backward(retain_graph=True)
    optimizer.step()
    assert all(p._version > v for p, v in zip(layer.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_parameter_without_gradient_keeps_its_version():
    used, unused = random_params([3, 3])
    used.grad = torch.ones(3)
    version = unused._version
    Adam([used, unused]).step()
    assert unused._version == version


def test_hooks_run_around_the_step_in_order():
    (param,) = random_params([3])
    param.grad = torch.ones(3)
    optimizer = Adam([param])
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(("before", param[0].item())))
    handle = optimizer.register_step_post_hook(lambda *_: calls.append(("after", param[0].item())))
    start = param[0].item()
    optimizer.step()
    assert calls == [("before", start), ("after", param[0].item())]
    handle.remove()
    optimizer.step()
    assert [name for name, _ in calls] == ["before", "after", "before"]


@pytest.mark.parametrize("set_to_none", [False, True])
def test_zero_grad_both_ways(set_to_none):
    params = random_params([3, 0, 5])
    optimizer = Adam(params)
    for _ in range(3):
        give_random_grads(params)
        before = [param.grad for param in params]
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
        for param, grad in zip(params, before, strict=True):
            if set_to_none:
                assert param.grad is None
            else:
                assert param.grad is grad
                assert not grad.any()
    optimizer.step()
    assert optimizer.state[params[0]]["step"].item() == (3 if set_to_none else 4)


def test_no_gradient_at_all_is_no_step():
    params = random_params([3, 4])
    optimizer = AdamW(params, weight_decay=0.5)
    before = [param.detach().clone() for param in params]
    assert optimizer.step() is None
    assert not optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


@pytest.mark.parametrize("cause", ["layout", "dtype", "state", "closure"])
def test_a_step_that_raises_has_written_nothing(cause):
    groups = [random_params([3, 4]), random_params([5])]
    optimizer = Adam([{"params": params} for params in groups], lr=0.1)
    flat = [*groups[0], *groups[1]]
    give_random_grads(flat)
    optimizer.step()
    give_random_grads(flat)
    closure = None
    if cause == "layout":
        groups[1][0].data = torch.zeros(10)[::2]
    elif cause == "dtype":
        groups[1][0].grad = None
        groups[1][0].data = torch.zeros(5, dtype=torch.float64)
        groups[1][0].grad = torch.zeros(5, dtype=torch.float64)
    elif cause == "state":
        optimizer.state[groups[1][0]]["exp_avg"] = torch.zeros(1)
    else:

        def closure():
            raise ValueError("in the closure")

    kept = [value.clone() for param in groups[0] for value in optimizer.state[param].values()]
    before = [param.detach().clone() for param in groups[0]]
    with pytest.raises((ValueError, TypeError)):
        optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(groups[0], before, strict=True))
    now = [value for param in groups[0] for value in optimizer.state[param].values()]
    assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))


def test_it_steps_under_no_grad_and_inference_leaves_no_graph():
    (param,) = random_params([3])
    param.grad = torch.ones(3)
    optimizer = Adam([param])
    with torch.enable_grad():
        optimizer.step()
    state = optimizer.state[param]
    assert param.is_leaf
    assert not any(value.requires_grad for value in state.values())


def test_training_in_a_loop_learns():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = AdamW(model.parameters(), lr=0.05)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
