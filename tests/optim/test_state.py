"""Checkpoints cross both ways between torch's classes and ours, and lose no bit of state."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from adam_reference import copies, give_random_grads, random_params
from pyparallel.optim import Adam, AdamW

PAIRS = [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)]


def train(optimizer, *lists, steps=3):
    for _ in range(steps):
        give_random_grads(*lists)
        optimizer.step()


def saved(state_dict):
    """A state dict as it comes back from a file."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same_states(a, b):
    assert a["state"].keys() == b["state"].keys()
    for key, state in a["state"].items():
        assert state.keys() == b["state"][key].keys()
        for name, value in state.items():
            assert torch.equal(value, b["state"][key][name]), (key, name)


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_keys_are_those_of_torch(ours, theirs, amsgrad):
    params = random_params((3, 0, 5))
    twins = copies(params)
    optimizers = ours(params, amsgrad=amsgrad), theirs(twins, amsgrad=amsgrad)
    for optimizer, tensors in zip(optimizers, (params, twins), strict=True):
        train(optimizer, tensors)
    own, other = (optimizer.state_dict() for optimizer in optimizers)
    assert [list(group) for group in own["param_groups"]] == [
        list(group) for group in other["param_groups"]
    ]
    assert own["param_groups"] == other["param_groups"]
    for key, state in other["state"].items():
        assert list(own["state"][key]) == list(state)
        for name, value in state.items():
            twin = own["state"][key][name]
            assert (twin.dtype, twin.shape) == (value.dtype, value.shape), name


@pytest.mark.parametrize("source", [0, 1], ids=["from ours", "from torch"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_run_goes_on_in_the_other_class(pair, source):
    params = random_params((3, 0, 513))
    first = pair[source](params, lr=0.02, amsgrad=True, weight_decay=0.1)
    train(first, params)
    twins = copies(params)
    second = pair[1 - source](twins)
    second.load_state_dict(saved(first.state_dict()))
    assert_same_states(first.state_dict(), second.state_dict())
    for _ in range(3):
        give_random_grads(params, twins)
        first.step()
        second.step()
    torch.testing.assert_close(params, twins, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer_first", [False, True])
def test_masters_and_moments_survive_bit_for_bit(dtype, optimizer_first):
    model = nn.Linear(9, 7).to(dtype)
    optimizer = AdamW(model.parameters(), lr=1e-3, master="fp32")
    train(optimizer, list(model.parameters()))
    checkpoint = saved({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    resumed = nn.Linear(9, 7).to(dtype)
    again = AdamW(resumed.parameters(), master="fp32")
    if optimizer_first:
        again.load_state_dict(checkpoint["optimizer"])
    resumed.load_state_dict(checkpoint["model"])
    if not optimizer_first:
        again.load_state_dict(checkpoint["optimizer"])
    assert_same_states(optimizer.state_dict(), again.state_dict())
    for _ in range(2):
        give_random_grads(list(model.parameters()), list(resumed.parameters()))
        optimizer.step()
        again.step()
        assert_same_states(optimizer.state_dict(), again.state_dict())
        assert torch.equal(model.weight, resumed.weight)


def test_state_of_torch_in_bfloat16_is_widened():
    param = torch.randn(50, dtype=torch.bfloat16).requires_grad_()
    theirs = torch.optim.Adam([param], lr=0.1)
    train(theirs, [param])
    (twin,) = copies([param])
    ours = Adam([twin], master="fp32")
    ours.load_state_dict(theirs.state_dict())
    for key in ("exp_avg", "exp_avg_sq"):
        assert ours.state[twin][key].dtype == torch.float32
        assert torch.equal(ours.state[twin][key], theirs.state[param][key].float())
    train(ours, [twin])
    assert ours.state[twin]["step"].item() == 6


def test_step_counts_of_old_checkpoints_were_plain_numbers():
    (param,) = random_params((4,))
    first = Adam([param])
    train(first, [param])
    checkpoint = first.state_dict()
    checkpoint["state"][0]["step"] = 3
    second = Adam([param])
    second.load_state_dict(checkpoint)
    train(second, [param], steps=1)
    assert second.state[param]["step"].item() == 4


def test_loading_copies_and_does_not_share():
    params = random_params((5,))
    first, second = Adam(params), Adam(params)
    train(first, params)
    second.load_state_dict(first.state_dict())
    first.state[params[0]]["exp_avg"].fill_(9)
    first.state[params[0]]["step"].fill_(9)
    assert not (second.state[params[0]]["exp_avg"] == 9).any()
    assert second.state[params[0]]["step"].item() == 3


def test_loading_follows_the_layout_of_the_parameter():
    plain = torch.randn(4, 3, 2, 2, requires_grad=True)
    first = torch.optim.Adam([plain], lr=0.1)
    train(first, [plain])
    moved = plain.detach().to(memory_format=torch.channels_last).requires_grad_()
    second = Adam([moved])
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        give_random_grads([plain])
        moved.grad = plain.grad.to(memory_format=torch.channels_last)
        first.step()
        second.step()
    torch.testing.assert_close(plain, moved)


@pytest.mark.parametrize("shape", [(4,), (1,), (5, 1), (0,)])
def test_a_checkpoint_of_another_shape_is_refused(shape):
    (param,), other = random_params((5,)), torch.randn(shape, requires_grad=True)
    first = Adam([other])
    train(first, [other])
    second = Adam([param])

    def load_and_train() -> None:
        second.load_state_dict(first.state_dict())
        train(second, [param])

    with pytest.raises((ValueError, RuntimeError), match=r"5"):
        load_and_train()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_deepcopy_and_pickle_go_on_alike(clone):
    params = random_params((5, 6), torch.bfloat16)
    original = AdamW(params, lr=0.01, master="fp32")
    train(original, params)
    twin = clone(original)
    twins = twin.param_groups[0]["params"]
    assert twins[0] is not params[0]
    train(twin, twins)  # apart from the original
    assert original.state[params[0]]["step"].item() == 3
    assert twin.state[twins[0]]["step"].item() == 6
    train(clone(original), params)
    twin = clone(original)
    twins = twin.param_groups[0]["params"]
    for _ in range(2):
        give_random_grads(params, twins)
        original.step()
        twin.step()
    assert_same_states(original.state_dict(), twin.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


def test_hooks_of_state_dicts_are_obeyed():
    params = random_params((3,))
    optimizer = Adam(params)
    train(optimizer, params)

    def double(_, state_dict):
        state = {k: {**v, "exp_avg": v["exp_avg"] * 2} for k, v in state_dict["state"].items()}
        return {**state_dict, "state": state}

    target = Adam(params)
    target.register_load_state_dict_pre_hook(double)
    target.load_state_dict(optimizer.state_dict())
    expected = optimizer.state[params[0]]["exp_avg"] * 2
    assert torch.equal(target.state[params[0]]["exp_avg"], expected)
    calls = []
    target.register_load_state_dict_post_hook(lambda o: calls.append(o.state[params[0]]["step"]))
    target.load_state_dict(optimizer.state_dict())
    assert [step.item() for step in calls] == [3.0]
