"""What cannot be stepped is refused by name, and then nothing at all is written."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from adam_reference import random_params
from pyparallel.optim import Adam, AdamW

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("cls", [Adam, AdamW])
@pytest.mark.parametrize(
    "options",
    [
        {"lr": NAN},
        {"lr": INF},
        {"lr": -1e-3},
        {"lr": torch.tensor(NAN)},
        {"lr": torch.tensor([0.1, 0.1])},
        {"eps": -1e-8},
        {"eps": NAN},
        {"betas": (1.0, 0.9)},
        {"betas": (0.9, -0.1)},
        {"betas": (NAN, 0.9)},
        {"weight_decay": -0.1},
        {"weight_decay": NAN},
        {"master": "fp16"},
    ],
    ids=str,
)
def test_bad_hyperparameters_at_construction(cls, options):
    with pytest.raises(ValueError):  # noqa: PT011
        cls(random_params((3,)), **options)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", NAN, "learning rate: nan"),
        ("lr", -1.0, "learning rate: -1"),
        ("lr", INF, "learning rate: inf"),
        ("lr", torch.tensor(NAN), "learning rate: nan"),
        ("eps", -1.0, "epsilon value: -1"),
        ("betas", (0.9, 1.5), "beta parameter at index 1: 1.5"),
        ("weight_decay", NAN, "weight_decay value: nan"),
    ],
)
def test_bad_hyperparameters_set_later_write_nothing(key, value, message):
    params = random_params((3, 4))
    before = [param.detach().clone() for param in params]
    optimizer = Adam([{"params": params[:1]}, {"params": params[1:]}])
    optimizer.param_groups[1][key] = value
    for param in params:
        param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(params, before, strict=True))
    optimizer.param_groups[1][key] = optimizer.defaults[key]
    optimizer.step()
    assert [optimizer.state[param]["step"].item() for param in params] == [1, 1]


def test_differentiable_and_fused_with_foreach_are_refused():
    with pytest.raises(RuntimeError, match="differentiable=True cannot be fused"):
        Adam(random_params((3,)), differentiable=True)
    with pytest.raises(RuntimeError, match=r"fused.*foreach"):
        AdamW(random_params((3,)), fused=True, foreach=True)
    Adam(random_params((3,)), fused=True, capturable=True)
    Adam(random_params((3,)), foreach=True)


def test_a_misspelt_argument_is_refused():
    with pytest.raises(TypeError, match="weigth_decay"):
        Adam(random_params((3,)), weigth_decay=0.1)


@pytest.mark.parametrize(
    "dtype", [torch.complex64, torch.complex128, torch.float8_e4m3fn], ids=lambda dtype: str(dtype)
)
def test_other_dtypes_are_refused_by_name_and_write_nothing(dtype):
    (good,) = random_params((3,))
    before = good.detach().clone()
    bad = torch.zeros(4).to(dtype).requires_grad_()
    good.grad, bad.grad = torch.ones(3), torch.zeros(4).to(dtype)
    optimizer = Adam([{"params": [good]}, {"params": [bad]}])
    with pytest.raises(TypeError, match=rf"shape \(4,\) is {dtype}; supported are float32"):
        optimizer.step()
    assert torch.equal(good, before)


def test_integers_cannot_be_parameters():
    with pytest.raises((ValueError, RuntimeError)):
        Adam([nn.Parameter(torch.zeros(3, dtype=torch.int32))])


def test_sparse_gradients_are_refused_as_torch_refuses_them():
    embedding = nn.Embedding(10, 3, sparse=True)
    embedding(torch.tensor([1, 2])).sum().backward()
    before = embedding.weight.detach().clone()
    optimizer = Adam(embedding.parameters())
    with pytest.raises(RuntimeError, match="sparse gradients"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)


@pytest.mark.parametrize("layout", [torch.sparse_coo])
def test_gradients_that_become_sparse_later_are_refused(layout):
    (param,) = random_params((3,))
    param = param.detach().view(3, 1).requires_grad_()
    optimizer = Adam([param])
    param.grad = torch.ones(3, 1)
    optimizer.step()
    before = param.detach().clone()
    param.grad = torch.eye(3)[:, :1].to_sparse(layout=layout)
    with pytest.raises((RuntimeError, TypeError), match="sparse"):
        optimizer.step()
    assert torch.equal(param, before)


def test_meta_parameters_are_refused_by_name():
    param = nn.Parameter(torch.zeros(3, device="meta"))
    param.grad = torch.zeros(3, device="meta")
    with pytest.raises(TypeError, match="parameter 0 is a meta tensor"):
        Adam([param]).step()


def test_fake_parameters_are_refused_by_name():
    with FakeTensorMode():
        param = nn.Parameter(torch.zeros(3))
        param.grad = torch.zeros(3)
        with pytest.raises(TypeError, match="parameter 0 is a FakeTensor"):
            Adam([param]).step()


class Wrapper(torch.Tensor):
    """A tensor without memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        def unwrap(value):
            return value.inner if isinstance(value, cls) else value

        return function(*(unwrap(arg) for arg in args), **(kwargs or {}))


def test_wrapper_tensors_are_refused_by_name():
    (param,) = random_params((3,))
    wrapped = Wrapper(torch.zeros(3)).requires_grad_()
    param.grad = torch.ones(3)
    wrapped.grad = Wrapper(torch.ones(3))
    before = param.detach().clone()
    with pytest.raises(TypeError, match="parameter 1 is a Wrapper without memory of its own"):
        Adam([param, wrapped]).step()
    assert torch.equal(param, before)
