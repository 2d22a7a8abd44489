"""Checkpoints of every class: nothing is lost, whatever is kept, and torch's class reads them."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from family import FAMILY, KEPT, assert_same_bits, give_grads, make_params, twins_of

TWINS = [member for member in FAMILY if member.twin is not None]
CASES = [
    pytest.param(member, hyper, id=f"{member}-{number}")
    for member in TWINS
    for number, hyper in enumerate(member.cases)
]
HALVES = (torch.bfloat16, torch.float32)
CLONES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
}


def saved(state_dict):
    """A state dict as it comes back from a file."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def text(kept):
    return "-".join(str(value) for value in kept.values())


def train(*pairs, steps=3):
    """The same gradients to the parameters of every (optimizer, parameters)."""
    for _ in range(steps):
        give_grads(*(params for _, params in pairs))
        for optimizer, _ in pairs:
            optimizer.step()


def mixed_params():
    return [param for dtype in HALVES for param in make_params(dtype)]


@pytest.mark.parametrize("kept", KEPT, ids=text)
@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(member, kept):
    params = mixed_params()
    straight = member.ours(params, lr=0.01, **member.steady, **kept)
    train((straight, params))
    checkpoint = saved(straight.state_dict())
    twins = twins_of(params)
    resumed = member.ours(twins, **kept)  # hyperparameters come with the checkpoint
    resumed.load_state_dict(checkpoint)
    assert_same_bits(straight, resumed)
    train((straight, params), (resumed, twins))
    assert_same_bits(straight, resumed)


@pytest.mark.parametrize("kept", KEPT, ids=text)
@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES.keys())
@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_a_clone_goes_on_alike(member, clone, kept):
    params = mixed_params()
    original = member.ours(params, lr=0.01, max_norm=1.0, **member.steady, **kept)
    train((original, params), steps=2)
    twin = clone(original)
    assert twin.options == original.options
    twins = [param for group in twin.param_groups for param in group["params"]]
    assert all(a is not b for a, b in zip(params, twins, strict=True))
    train((original, params), (twin, twins), steps=2)
    assert_same_bits(original, twin)


@pytest.mark.parametrize("source", ["from ours", "from torch"])
@pytest.mark.parametrize(("member", "hyper"), CASES)
def test_a_run_goes_on_in_the_class_of_torch_and_back(member, hyper, source):
    classes = (member.ours, member.twin)[:: 1 if source == "from ours" else -1]
    params = make_params()
    first = classes[0](params, lr=0.02, **hyper)
    train((first, params))
    twins = twins_of(params)
    second = classes[1](twins)
    second.load_state_dict(saved(first.state_dict()))
    train((first, params), (second, twins))
    torch.testing.assert_close(params, twins, rtol=1e-5, atol=1e-6)
    again = twins_of(twins)
    third = classes[0](again)
    third.load_state_dict(saved(second.state_dict()))
    train((second, twins), (third, again))
    torch.testing.assert_close(again, twins, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("member", "hyper"), CASES)
def test_a_checkpoint_looks_like_that_of_torch(member, hyper):
    """Its keys, shapes and dtypes; SGD with dampening counts its steps besides."""
    params = make_params()
    twins = twins_of(params)
    ours, theirs = member.ours(params, **hyper), member.twin(twins, **hyper)
    train((ours, params), (theirs, twins))
    found, expected = ours.state_dict(), theirs.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        own = dict(found["state"][number])
        if str(member) == "SGD" and hyper.get("dampening"):
            assert own.pop("step").item() == 3
        assert own.keys() == state.keys()
        for key, value in state.items():
            assert (own[key].dtype, own[key].shape) == (value.dtype, value.shape), key


@pytest.mark.parametrize("state_dtype", ["bf16", "8bit"])
@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_states_change_their_width_at_loading(member, state_dtype):
    """Within the precision of the narrower one, and back without another loss."""
    params = make_params()
    wide = member.ours(params, lr=0.01, **member.steady)
    train((wide, params))
    narrow = member.ours(twins_of(params), state_dtype=state_dtype)
    narrow.load_state_dict(wide.state_dict())
    back = member.ours(twins_of(params))
    back.load_state_dict(narrow.state_dict())
    again = member.ours(twins_of(params), state_dtype=state_dtype)
    again.load_state_dict(back.state_dict())
    unit = {"bf16": 2.0**-8, "8bit": 2.0**-3}[state_dtype]
    for index, state in wide.state_dict()["state"].items():
        for key, value in state.items():
            if key == "step":
                continue
            found = back.state_dict()["state"][index][key]
            bound = unit * value.abs() + 2.0**-15 * value.abs().max() if value.numel() else value
            assert ((found - value).abs() <= bound).all(), key
            codes = (optimizer.state_dict()["state"][index][key] for optimizer in (narrow, again))
            assert torch.equal(*codes), key


@pytest.mark.parametrize("master", ["fp32", "remainder"])
@pytest.mark.parametrize("order", [("model", "optimizer"), ("optimizer", "model")], ids=str)
@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_masters_follow_a_model_that_is_loaded(member, master, order):
    params = make_params(torch.bfloat16)
    first = member.ours(params, lr=0.01, master=master, **member.steady)
    train((first, params))
    state_dict, values = saved(first.state_dict()), [param.detach().clone() for param in params]
    twins = make_params(torch.bfloat16)
    second = member.ours(twins, master=master)
    train((second, twins), steps=1)
    for what in order:
        if what == "optimizer":
            second.load_state_dict(state_dict)
        else:
            with torch.no_grad():
                for twin, value in zip(twins, values, strict=True):
                    twin.copy_(value)
    train((first, params), (second, twins))
    assert_same_bits(first, second)


@pytest.mark.parametrize("master", ["fp32", "remainder"])
@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_a_parameter_written_between_steps_is_not_taken_back(member, master):
    (param,) = make_params(torch.bfloat16, (300,))
    optimizer = member.ours([param], lr=1e-3, master=master)
    train((optimizer, [param]))
    with torch.no_grad():
        param.fill_(5.0)
    train((optimizer, [param]), steps=1)
    torch.testing.assert_close(param.detach().float(), torch.full((300,), 5.0), rtol=0, atol=0.05)


@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_a_checkpoint_of_other_shapes_is_refused_and_changes_nothing(member):
    params, others = make_params(sizes=(3, 5)), make_params(sizes=(3, 4))
    first = member.ours(others, **member.steady)
    train((first, others))
    second = member.ours(params, **member.steady)
    train((second, params))
    before = copy.deepcopy(second)
    with pytest.raises(ValueError, match=r"of parameter 1 has shape \(4,\), the parameter \(5,\)"):
        second.load_state_dict(first.state_dict())
    assert_same_bits(second, before)
    assert second.state_dict()["param_groups"] == before.state_dict()["param_groups"]


RELATED = {("Adam", "AdamW"), ("AdamW", "Adam")}  # the same states: a checkpoint goes over
PAIRS = [
    pytest.param(a, b, id=f"{a} to {b}")
    for a in FAMILY
    for b in FAMILY
    if a is not b and (str(a), str(b)) not in RELATED
]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_checkpoint_of_another_optimizer_is_refused_and_changes_nothing(source, target):
    params, others = make_params(sizes=(3, 5)), make_params(sizes=(3, 5))
    first, second = source.ours(others, **source.steady), target.ours(params, **target.steady)
    train((first, others))
    train((second, params))
    before = copy.deepcopy(second)
    message = rf"{target}: .*another optimizer's.*parameters? \[?0.*has"
    with pytest.raises(ValueError, match=message):
        second.load_state_dict(first.state_dict())
    assert_same_bits(second, before)
    assert second.state_dict()["param_groups"] == before.state_dict()["param_groups"]
