"""AdamW is Adam with decoupled decay, by default as strong as torch's."""

from __future__ import annotations

import inspect

import pytest
import torch

from adam_reference import AdamReference, assert_follows, copies, give_random_grads, random_params
from pyparallel.optim import Adam, AdamW


def train(optimizer, params, *twins, steps=4):
    for _ in range(steps):
        give_random_grads(params, *twins)
        optimizer.step()


def test_decays_the_parameter_and_not_the_gradient():
    params = random_params((1, 100, 0, 999))
    references = [AdamReference(p, weight_decay=0.01, decoupled=True) for p in params]
    optimizer = AdamW(params)
    for _ in range(4):
        give_random_grads(params)
        for param, reference in zip(params, references, strict=True):
            reference.step(param.grad)
        optimizer.step()
    assert_follows(optimizer, params, references)


def test_without_gradient_signal_only_the_decay_is_left():
    param = torch.ones(5, requires_grad=True)
    param.grad = torch.zeros(5)
    AdamW([param], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(param.detach(), torch.full((5,), 1 - 0.1 * 0.5))


def test_differs_from_adam_with_the_same_decay():
    (param,) = random_params((50,))
    (twin,) = copies([param])
    give_random_grads([param], [twin])
    AdamW([param], weight_decay=0.5).step()
    Adam([twin], weight_decay=0.5).step()
    assert not torch.allclose(param, twin)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_equals_torch_with_its_default_decay(amsgrad):
    params = random_params((7, 0, 513))
    twins = copies(params)
    ours = AdamW(params, lr=0.02, amsgrad=amsgrad)
    theirs = torch.optim.AdamW(twins, lr=0.02, amsgrad=amsgrad)
    for _ in range(5):
        give_random_grads(params, twins)
        ours.step()
        theirs.step()
    torch.testing.assert_close(params, twins, rtol=3e-6, atol=1e-7)


def test_decay_stays_decoupled_after_loading_a_checkpoint_of_adam():
    (param,) = random_params((9,))
    adam = torch.optim.Adam([param], weight_decay=0.1)
    train(adam, [param])
    (twin,) = copies([param])
    adamw = AdamW([twin])
    adamw.load_state_dict(adam.state_dict())
    before = twin.detach().clone()
    twin.grad = torch.zeros(9)
    adamw.state[twin]["exp_avg"].zero_()
    adamw.step()
    torch.testing.assert_close(twin.detach(), before * (1 - 1e-3 * 0.1))


def test_takes_the_arguments_of_torch_in_their_order():
    ours = inspect.signature(AdamW.__init__).parameters
    theirs = inspect.signature(torch.optim.AdamW.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind)
