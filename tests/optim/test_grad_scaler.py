"""GradScaler drives the optimizer like torch's fused ones: unscaled once, skipped wholly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adam_reference import AdamReference, assert_follows, copies, random_params
from pyparallel.optim import Adam, AdamW

SCALE = 1024.0


def scaled(grads, factor=SCALE):
    return [grad * factor for grad in grads]


def give(params, grads):
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()


@pytest.mark.parametrize("unscale_first", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
def test_scaled_gradients_are_divided_exactly_once(unscale_first, maximize):
    params = random_params((1, 0, 513))
    references = [AdamReference(param, lr=0.1, maximize=maximize) for param in params]
    optimizer = Adam(params, lr=0.1, maximize=maximize)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=10**6)
    for _ in range(3):
        grads = [torch.randn_like(param) for param in params]
        scaler.scale(torch.tensor(0.0))  # makes the scale, as scaling a loss does
        give(params, scaled(grads))
        if unscale_first:
            scaler.unscale_(optimizer)
            torch.testing.assert_close(params[2].grad, grads[2])
        scaler.step(optimizer)
        scaler.update()
        for reference, grad in zip(references, grads, strict=True):
            reference.step(grad)
    assert_follows(optimizer, params, references)
    assert not hasattr(optimizer, "grad_scale")


@pytest.mark.parametrize("unscale_first", [False, True])
def test_a_non_finite_gradient_skips_everything(unscale_first):
    params = random_params((4, 5), torch.bfloat16)
    optimizer = AdamW(params, lr=0.1, master="fp32")
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    give(params, [torch.ones_like(param) for param in params])
    optimizer.step()
    before = copies(params)
    states = [{k: v.clone() for k, v in optimizer.state[param].items()} for param in params]
    scaler.scale(torch.tensor(0.0))
    give(params, [torch.ones_like(params[0]), torch.full_like(params[1], float("inf"))])
    if unscale_first:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == SCALE / 2
    for param, old, state in zip(params, before, states, strict=True):
        assert torch.equal(param, old)
        for key, value in state.items():
            assert torch.equal(optimizer.state[param][key], value), key


@pytest.mark.parametrize("flag", [1.0, 2.0, 0.5, -1.0, float("inf"), float("nan")])
def test_any_flag_but_zero_skips(flag):
    """GradScaler adds up the flags of several devices."""
    (param,) = random_params((7,))
    before = param.detach().clone()
    optimizer = Adam([param])
    param.grad = torch.ones(7)
    optimizer.found_inf = torch.tensor(flag)
    optimizer.step()
    assert torch.equal(param, before)
    assert optimizer.state[param]["step"].item() == 0
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not torch.equal(param, before)
    assert optimizer.state[param]["step"].item() == 1


def test_a_flag_of_the_wrong_kind_is_refused():
    (param,) = random_params((3,))
    param.grad = torch.ones(3)
    before = param.detach().clone()
    optimizer = Adam([param])
    optimizer.found_inf = torch.zeros((), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"found_inf is torch.float64 .* not float32"):
        optimizer.step()
    assert torch.equal(param, before)


def test_training_with_the_scaler_equals_torch():
    losses = []
    x, y = torch.randn(16, 6), torch.randn(16, 2)
    start = nn.Linear(6, 2).state_dict()
    for cls in (AdamW, torch.optim.AdamW):
        model = nn.Linear(6, 2)
        model.load_state_dict(start)
        optimizer = cls(model.parameters(), lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=3)
        run = []
        for _ in range(8):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = (model(x) - y).square().mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            run.append(loss.item())
        losses.append(run)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)
    assert losses[0][-1] < losses[0][0]
