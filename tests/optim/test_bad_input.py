"""Bad input of every class is refused by name before anything is written."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from family import FAMILY, assert_same_bits, give_grads, make_params

ALL = pytest.mark.parametrize("member", FAMILY, ids=str)
TWINS = pytest.mark.parametrize("member", [m for m in FAMILY if m.twin is not None], ids=str)
NAN, INF = float("nan"), float("inf")


def fake_grad():
    with FakeTensorMode():
        return torch.zeros(5)


def sparse_grad():
    return torch.ones(5).to_sparse()


def set_unchecked(param, grad):
    """As `param.grad = grad`, where torch itself would refuse it."""
    other = torch.zeros(grad.shape, dtype=grad.dtype)
    kept = param.data
    param.data = other
    param.grad = grad
    param.data = kept


GRADS = {
    "sparse": (sparse_grad, RuntimeError, "parameter 1: sparse gradients are not supported"),
    "fake": (fake_grad, TypeError, "the gradient of parameter 1 is a FakeTensor"),
    "another shape": (
        lambda: torch.ones(6),
        ValueError,
        r"parameter 1 is \(5,\) on cpu, its gradient \(6,\)",
    ),
}


@ALL
@pytest.mark.parametrize("case", GRADS)
def test_bad_gradients(member, case):
    make, error, message = GRADS[case]
    params = make_params(sizes=(3, 5, 4))  # the last one in a group that would be stepped first
    groups = [{"params": params[2:]}, {"params": params[:2]}]
    optimizer = member.ours(groups, **member.steady)
    give_grads(params)
    optimizer.step()
    before = copy.deepcopy(optimizer)
    give_grads(params)
    params[1].grad = None
    set_unchecked(params[1], make())
    version = params[2]._version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a FakeTensor was asked for its address
        with pytest.raises(error, match=message):
            optimizer.step()
    assert_same_bits(optimizer, before)
    assert params[2]._version == version


@ALL
def test_a_gradient_of_another_dtype(member):
    """Of a float the kernels read it is taken as it is; of any other it is refused."""
    params = make_params(sizes=(3, 5))
    optimizer = member.ours(params, lr=0.1)
    give_grads(params)
    optimizer.step()
    before = copy.deepcopy(optimizer)
    params[1].grad = None
    set_unchecked(params[1], torch.ones(5, dtype=torch.complex64))
    with pytest.raises(TypeError, match=r"gradient has dtype torch.complex64"):
        optimizer.step()
    assert_same_bits(optimizer, before)


@ALL
@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn], ids=str)
def test_parameters_of_other_dtypes(member, dtype):
    (good,) = make_params(sizes=(3,))
    bad = torch.zeros(4).to(dtype).requires_grad_()
    good.grad, bad.grad = torch.ones(3), torch.zeros(4).to(dtype)
    before = good.detach().clone()
    with pytest.raises(TypeError, match=rf"{member}: .*shape \(4,\) is {dtype}; supported are"):
        member.ours([{"params": [good]}, {"params": [bad]}]).step()
    assert torch.equal(good, before)


@ALL
def test_meta_and_fake_parameters(member):
    meta = nn.Parameter(torch.zeros(3, device="meta"))
    meta.grad = torch.zeros(3, device="meta")
    with pytest.raises(TypeError, match="parameter 0 is a meta tensor"):
        member.ours([meta]).step()
    with FakeTensorMode():
        fake = nn.Parameter(torch.zeros(3))
        fake.grad = torch.zeros(3)
        with pytest.raises(TypeError, match="parameter 0 is a FakeTensor"):
            member.ours([fake]).step()


@ALL
def test_the_same_parameter_in_two_groups(member):
    params = make_params(sizes=(3, 5))
    with pytest.raises(ValueError, match="some parameters appear in more than one parameter group"):
        member.ours([{"params": params}, {"params": params[:1]}])


BAD_HYPER = [
    *[("lr", value) for value in (-1.0, -1e-30)],
    *[("eps", -1.0), ("betas", (1.0, 0.9)), ("betas", (0.9, -0.1)), ("weight_decay", -0.1)],
    *[("momentum", -0.5), ("alpha", -0.5), ("lr_decay", -0.5), ("initial_accumulator_value", -1.0)],
    *[("nesterov", True), ("momentum", -1)],
]
PAIRS = [
    pytest.param(member, {key: value}, id=f"{member}-{key}={value}")
    for member in FAMILY
    if member.twin is not None
    for key, value in BAD_HYPER
    if key in member.ours(make_params(sizes=(1,))).defaults
]


@pytest.mark.parametrize(("member", "hyper"), PAIRS)
def test_hyperparameters_are_refused_in_torchs_words(member, hyper):
    with pytest.raises(ValueError) as theirs:  # noqa: PT011
        member.twin(make_params(sizes=(3,)), **hyper)
    with pytest.raises(ValueError) as ours:  # noqa: PT011
        member.ours(make_params(sizes=(3,)), **hyper)
    assert str(ours.value) == str(theirs.value)


@ALL
@pytest.mark.parametrize("value", [NAN, INF, torch.tensor(NAN)], ids=str)
def test_what_torch_lets_pass_as_a_learning_rate(member, value):
    with pytest.raises(ValueError, match="Invalid learning rate"):
        member.ours(make_params(sizes=(3,)), lr=value)


@ALL
def test_a_hyperparameter_set_later_writes_nothing(member):
    params = make_params(sizes=(3, 5))
    optimizer = member.ours([{"params": params[:1]}, {"params": params[1:]}], **member.steady)
    give_grads(params)
    optimizer.step()
    before = copy.deepcopy(optimizer)
    optimizer.param_groups[1]["lr"] = NAN
    with pytest.raises(ValueError, match="Invalid learning rate: nan"):
        optimizer.step()
    assert_same_bits(optimizer, before)


@ALL
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"master": "fp16"}, "master is 'fp16'"),
        ({"state_dtype": "int8"}, "state_dtype is 'int8'"),
        ({"stochastic_rounding": True, "master": "fp32"}, "stochastic_rounding with master"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1 << 32}, "seed is 4294967296"),
        ({"max_norm": 0.0}, "max_norm is 0.0"),
        ({"max_norm": NAN}, "max_norm is nan"),
        ({"max_norm": INF}, "max_norm is inf"),
    ],
    ids=str,
)
def test_bad_options(member, options, message):
    with pytest.raises(ValueError, match=message):
        member.ours(make_params(sizes=(3,)), **options)


@ALL
@pytest.mark.parametrize(
    "options", [{"master": "remainder"}, {"stochastic_rounding": True}], ids=str
)
def test_float16_has_no_remainder_and_no_random_rounding(member, options):
    params = make_params(torch.float16, (3,))
    give_grads(params)
    with pytest.raises(TypeError, match=r"is for torch\.bfloat16, not torch\.float16"):
        member.ours(params, **options).step()


@ALL
def test_a_misspelt_argument(member):
    with pytest.raises(TypeError, match="weigth_decay"):
        member.ours(make_params(sizes=(3,)), weigth_decay=0.1)
