"""What torch promises of an optimizer holds for every class: groups, closures, hooks, scaling."""

from __future__ import annotations

import pytest
import torch

from family import FAMILY, KEPT, assert_same_bits, give_grads, make_params, twins_of

WIDE = {"rtol": 1e-5, "atol": 1e-6}
TWINS = pytest.mark.parametrize("member", [m for m in FAMILY if m.twin is not None], ids=str)
ALL = pytest.mark.parametrize("member", FAMILY, ids=str)


def states_of(optimizer):
    return [
        value.clone()
        for state in optimizer.state_dict()["state"].values()
        for value in state.values()
    ]


@TWINS
def test_groups_and_groups_added_later_are_stepped_as_by_torch(member):
    params = make_params()
    twins = twins_of(params)
    pair = []
    for cls, own in ((member.ours, params), (member.twin, twins)):
        optimizer = cls([{"params": own[:1]}, {"params": [own[2]], "lr": 0.1}], lr=0.01)
        pair.append((optimizer, own))
    for step in range(4):
        give_grads(params, twins)
        for optimizer, own in pair:
            if step == 1:
                optimizer.add_param_group({"params": own[3], "weight_decay": 0.5, "lr": 0.05})
            optimizer.step()
    torch.testing.assert_close(params, twins, **WIDE)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_lr_is_read_at_every_step(member, dtype):
    params = make_params()
    twins = twins_of(params)
    lr = torch.tensor(0.5, dtype=dtype)
    ours, theirs = member.ours(params, lr=lr), member.ours(twins, lr=0.5)
    for value in (0.5, 0.25, 0.0625):
        lr.fill_(value)
        theirs.param_groups[0]["lr"] = value
        give_grads(params, twins)
        ours.step()
        theirs.step()
    assert_same_bits(ours, theirs)


@ALL
def test_a_closure_runs_once_with_gradients_and_its_loss_comes_back(member):
    (param,) = make_params(sizes=(5,))
    optimizer = member.ours([param], lr=0.01)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    before = param.detach().clone()
    assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1
    assert not torch.equal(param, before)


@ALL
def test_maximize_is_the_step_along_the_negated_gradient(member):
    params = make_params()
    twins = twins_of(params)
    up = member.ours(params, lr=0.01, maximize=True, weight_decay=0.1)
    down = member.ours(twins, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        give_grads(params, twins)
        for twin in twins:
            twin.grad.neg_()
        up.step()
        down.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


@ALL
def test_hooks_run_around_the_step(member):
    (param,) = make_params(sizes=(1,))
    param.grad = torch.ones(1)
    optimizer = member.ours([param], lr=0.1)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("before", param.item())))
    optimizer.register_step_post_hook(lambda *_: seen.append(("after", param.item())))
    start = param.item()
    optimizer.step()
    assert seen == [("before", start), ("after", param.item())]
    assert param.item() != start


@ALL
@pytest.mark.parametrize("set_to_none", [False, True])
def test_zero_grad_both_ways(member, set_to_none):
    params = make_params()
    optimizer = member.ours(params)
    give_grads(params)
    grads = [param.grad for param in params]
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    for param, grad in zip(params, grads, strict=True):
        if set_to_none:
            assert param.grad is None
        else:
            assert param.grad is grad
            assert not grad.any()
    before = [param.detach().clone() for param in params]
    optimizer.step()
    if set_to_none:
        assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))


@TWINS
@pytest.mark.parametrize("unscale_first", [False, True])
def test_grad_scaler_divides_once(member, unscale_first):
    params = make_params()
    twins = twins_of(params)
    ours, theirs = member.ours(params, lr=0.01), member.twin(twins, lr=0.01, foreach=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        scaler.scale(torch.tensor(0.0))
        give_grads(params, twins)
        for param in params:
            param.grad.mul_(1024)
        if unscale_first:
            scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()
        theirs.step()
    torch.testing.assert_close(params, twins, **WIDE)


@ALL
@pytest.mark.parametrize("unscale_first", [False, True])
@pytest.mark.parametrize("kept", KEPT, ids=lambda kept: "-".join(map(str, kept.values())))
def test_one_infinite_gradient_skips_everything(member, unscale_first, kept):
    params = make_params(torch.bfloat16) + make_params()
    optimizer = member.ours(params, lr=0.1, **member.steady, **kept)
    give_grads(params)
    optimizer.step()
    values, states = [param.detach().clone() for param in params], states_of(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.tensor(0.0))
    give_grads(params)
    params[2].grad[3] = float("inf")
    if unscale_first:
        scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert all(torch.equal(a, b) for a, b in zip(params, values, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(states_of(optimizer), states, strict=True))


@ALL
@pytest.mark.parametrize("max_norm", [1e-2, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_max_norm_is_clip_grad_norm_and_a_step(member, max_norm, dtype):
    params = make_params(dtype)
    twins = [param.detach().float().requires_grad_() for param in params]
    split = [{"params": params[:2]}, {"params": params[2:]}]
    ours = member.ours(split, lr=0.01, max_norm=max_norm, master="fp32")
    theirs = member.ours(twins, lr=0.01)
    for _ in range(3):
        give_grads(params)
        before = [param.grad.clone() for param in params]
        for param, twin in zip(params, twins, strict=True):
            twin.grad = param.grad.to(torch.float32, copy=True)
        ours.step()
        norm = torch.nn.utils.clip_grad_norm_(twins, max_norm)
        theirs.step()
        torch.testing.assert_close(ours.last_grad_norm, norm)
        assert all(torch.equal(p.grad, b) for p, b in zip(params, before, strict=True))
    exact = [ours.state[param].get("master", param) for param in params]
    for value, twin in zip(exact, twins, strict=True):
        torch.testing.assert_close(value.detach(), twin.detach(), rtol=1e-5, atol=1e-5)


@ALL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_norm_that_is_not_finite_skips(member, bad):
    params = make_params()
    optimizer = member.ours(params, lr=0.1, max_norm=1.0, **member.steady)
    give_grads(params)
    optimizer.step()
    values, states = [param.detach().clone() for param in params], states_of(optimizer)
    give_grads(params)
    params[3].grad[299] = bad
    optimizer.step()
    assert not optimizer.last_grad_norm.isfinite()
    assert all(torch.equal(a, b) for a, b in zip(params, values, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(states_of(optimizer), states, strict=True))


def test_max_norm_with_a_scaler_is_of_the_unscaled_gradients():
    params = make_params()
    twins = twins_of(params)
    ours, theirs = (FAMILY[0].ours(own, lr=0.01, max_norm=0.5) for own in (params, twins))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale(torch.tensor(0.0))
    give_grads(params, twins)
    for param in params:
        param.grad.mul_(2.0**16)
    scaler.step(ours)
    theirs.step()
    torch.testing.assert_close(ours.last_grad_norm, theirs.last_grad_norm)
    torch.testing.assert_close(params, twins, **WIDE)


@ALL
def test_state_of_a_hook_beside_the_parameters_is_let_through(member):
    """torch's hooks may write anything into `state` under a key that is no parameter."""
    params = make_params()
    optimizer = member.ours(params, **member.steady)
    optimizer.register_state_dict_pre_hook(lambda o: o.state.update({"note": 1}))
    for _ in range(2):
        give_grads(params)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state["note"] == 1
    if "step" in optimizer.state[params[0]]:
        assert optimizer.state[params[0]]["step"].item() == 2


@ALL
def test_parameters_may_have_names(member):
    params = make_params()
    optimizer = member.ours([(f"name{index}", param) for index, param in enumerate(params)])
    give_grads(params)
    optimizer.step()
    twins = twins_of(params)
    again = member.ours(twins)
    again.load_state_dict(optimizer.state_dict())
    names = again.state_dict()["param_groups"][0]["param_names"]
    assert names == ["name0", "name1", "name2", "name3"]
