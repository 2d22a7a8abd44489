"""Adafactor computes what torch.optim.Adafactor computes, and loads its checkpoints and back."""

from __future__ import annotations

import copy

import pytest
import torch

from adam_reference import copies, give_random_grads
from pyparallel.optim import Adafactor

SHAPES = [(1,), (513,), (), (1, 1), (7, 5), (5, 7), (300, 301), (2, 3, 5, 7), (1, 9), (9, 1)]


def random_tensors(dtype=torch.float32, shapes=SHAPES):
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def train(optimizers, *lists, steps=4):
    for step in range(steps):
        give_random_grads(*lists, scale=10.0 ** -(step % 3))
        for optimizer in optimizers:
            optimizer.step()


def assert_same(ours, theirs, params, twins, rtol=3e-6, atol=1e-6):
    for param, twin in zip(params, twins, strict=True):
        torch.testing.assert_close(param, twin, rtol=rtol, atol=atol)
        own, other = ours.state[param], theirs.state[twin]
        assert list(own) == list(other)
        for key, value in other.items():
            assert own[key].shape == value.shape, key
            torch.testing.assert_close(
                own[key], value, rtol=1e-5, atol=0, msg=lambda t, k=key: k + t
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.3, "weight_decay": 0.125, "maximize": True},
        {"eps": (1e-2, 0.5), "d": 1.5, "beta2_decay": -0.3},
        {"lr": torch.tensor(0.05, dtype=torch.float64), "eps": (1e-30, 0.0)},
    ],
    ids=["defaults", "decay", "others", "tensor lr"],
)
def test_follows_torch(options, foreach, dtype):
    params = random_tensors(dtype)
    twins = copies(params)
    ours = Adafactor(params, **options, foreach=foreach)
    theirs = torch.optim.Adafactor(twins, **options, foreach=foreach)
    train((ours, theirs), params, twins)
    tight = {"rtol": 1e-7, "atol": 1e-9} if dtype == torch.float64 else {}
    assert_same(ours, theirs, params, twins, **tight)
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


@pytest.mark.parametrize("source", [0, 1], ids=["from ours", "from torch"])
def test_a_run_goes_on_in_the_other_class(source):
    classes = Adafactor, torch.optim.Adafactor
    params = random_tensors()
    first = classes[source](params, lr=0.05, weight_decay=0.1)
    train([first], params)
    twins = copies(params)
    second = classes[1 - source](twins)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train((first, second), params, twins)
    if source == 0:
        assert_same(first, second, params, twins)
    else:
        assert_same(second, first, twins, params)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_parameters_keep_float32_states(dtype):
    """Those of torch are of the parameter's dtype: small squares are lost in float16."""
    params = [torch.randn(33, 65).to(dtype).requires_grad_() for _ in range(2)]
    wide = [param.detach().float().requires_grad_() for param in params]
    options = {"lr": 0.05, "eps": (1e-7, 1e-3)}
    ours, theirs = (
        Adafactor(params, master="fp32", **options),
        torch.optim.Adafactor(wide, **options),
    )
    for _ in range(4):
        give_random_grads(params, scale=1e-4)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
    for param, twin in zip(params, wide, strict=True):
        state = ours.state[param]
        torch.testing.assert_close(state["master"], twin.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(param, state["master"].to(dtype))
        assert state["row_var"].dtype == state["col_var"].dtype == torch.float32
        assert (state["row_var"] > 0).all()


def test_empty_parameters_are_counted_and_stay_empty():
    params = random_tensors(shapes=[(0,), (3, 0), (0, 3), (4, 4)])
    optimizer = Adafactor(params)
    train([optimizer], params, steps=2)
    for param in params:
        state = optimizer.state[param]
        assert state["step"].item() == 2
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0 but is: -1.0"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"beta2_decay": 0.5}, "beta2_decay should be <= 0 but is: 0.5"),
        ({"eps": (-1.0, 1e-3)}, "epsilon1 should be >= 0 but is: -1.0"),
        ({"eps": (None, -1.0)}, "epsilon2 should be >= 0 but is: -1.0"),
        ({"d": 0.5}, "Clipping threshold d should be >= 1 but is: 0.5"),
        ({"weight_decay": -1.0}, "weight_decay should be >= 0 but is: -1.0"),
    ],
    ids=str,
)
def test_hyperparameters_are_refused_in_torchs_words(options, text):
    for cls in (torch.optim.Adafactor, Adafactor):
        with pytest.raises(ValueError, match=f"^{text.replace('(', '.')}$"):
            cls([torch.zeros(2, requires_grad=True)], **options)


@pytest.mark.parametrize("key", ["lr", "beta2_decay", "d", "weight_decay"])
def test_nan_is_refused(key):
    with pytest.raises(ValueError, match="nan"):
        Adafactor([torch.zeros(2, requires_grad=True)], **{key: float("nan")})
    with pytest.raises(ValueError, match="nan"):
        Adafactor([torch.zeros(2, requires_grad=True)], eps=(float("nan"), 1e-3))


@pytest.mark.parametrize("state_dtype", ["8bit", "bf16"])
def test_narrow_states_are_refused_by_name(state_dtype):
    with pytest.raises(ValueError, match=f"state_dtype='{state_dtype}'.*Adafactor"):
        Adafactor([torch.zeros(2, requires_grad=True)], state_dtype=state_dtype)
