"""Parameters lie in memory in any dense order and alignment; what is not dense is refused."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from adam_reference import AdamReference, assert_follows
from pyparallel.optim import Adam

GUARD = 17


def unaligned(shape, dtype=torch.float32, offset=1):
    """A leaf inside a larger buffer, with guards before and behind it; returns both."""
    numel = torch.Size(shape).numel()
    buffer = torch.full((GUARD + offset + numel + GUARD,), 7.0, dtype=dtype)
    leaf = buffer[GUARD + offset : GUARD + offset + numel].view(shape).detach()
    leaf.copy_(torch.randn(shape))
    return leaf.requires_grad_(), buffer


def step_and_compare(params, grads, *, steps=3, **options):
    references = [AdamReference(param, **options) for param in params]
    optimizer = Adam(params, **options)
    for _ in range(steps):
        for param, reference, grad in zip(params, references, grads, strict=True):
            param.grad = grad
            reference.step(grad)
        optimizer.step()
    assert_follows(optimizer, params, references)
    return optimizer


@pytest.mark.parametrize("offset", [1, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 15, 16, 17, 511, 513, 65_537])
def test_unaligned_views_change_nothing_around_them(size, offset):
    param, buffer = unaligned((size,), offset=offset)
    grad, _ = unaligned((size,), offset=offset + 1)
    step_and_compare([param], [grad.detach()], lr=0.1)
    inside = torch.zeros(len(buffer), dtype=torch.bool)
    inside[GUARD + offset : GUARD + offset + size] = True
    assert (buffer[~inside] == 7.0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last),
        lambda: torch.randn(2, 4, 3, 3, 5).to(memory_format=torch.channels_last_3d),
        lambda: torch.randn(33, 7).t(),
        lambda: torch.randn(3, 5, 7).permute(2, 0, 1),
        lambda: torch.randn(1, 6, 1).transpose(0, 2),
        lambda: torch.randn(4, 4).t(),
    ],
    ids=["channels_last", "channels_last_3d", "transposed", "permuted", "with ones", "square"],
)
def test_dense_parameters_of_any_order(make):
    param = make().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing to copy, nothing to warn about
        optimizer = step_and_compare([param], [torch.randn_like(param)], weight_decay=0.1, lr=0.1)
    assert optimizer.state[param]["exp_avg"].stride() == param.stride()


@pytest.mark.parametrize(
    "layout",
    [
        lambda grad: grad.to(memory_format=torch.channels_last),
        lambda grad: grad.transpose(0, 1).contiguous().transpose(0, 1),
        lambda grad: torch.stack([grad, grad + 1], -1)[..., 0],
        lambda grad: torch.full((1, 1, 1, 1), 0.5).expand_as(grad),
    ],
    ids=["channels_last", "transposed", "with gaps", "expanded"],
)
def test_gradient_in_another_layout_is_copied_with_a_warning(layout):
    param = torch.randn(4, 4, 3, 3, requires_grad=True)
    grad = layout(torch.randn(4, 4, 3, 3))
    with pytest.warns(UserWarning, match=r"gradient of parameter 0 has strides .* copied"):
        step_and_compare([param], [grad], lr=0.1)


def test_strides_of_dimensions_of_one_are_no_other_layout():
    param = torch.randn(5, 1, 1, 1, requires_grad=True)
    grad = torch.randn(5, 1, 1, 1).as_strided((5, 1, 1, 1), (1, 5, 5, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step_and_compare([param], [grad], lr=0.1)


def test_gradient_with_a_pending_negation_has_the_right_sign():
    param = torch.randn(5, requires_grad=True)
    grad = torch._neg_view(torch.randn(5))
    assert grad.is_neg()
    step_and_compare([param], [grad], lr=0.1)


def test_neighbours_of_a_slice_with_gaps_stay_untouched():
    base = torch.randn(6, 2)
    before = base.clone()
    param = base[..., 0].detach().requires_grad_()
    param.grad = torch.ones(6)
    optimizer = Adam([param])
    with pytest.raises(ValueError, match=r"parameter 0 of shape \(6,\) with strides \(2,\)"):
        optimizer.step()
    assert torch.equal(base, before)


@pytest.mark.parametrize(
    "param",
    [torch.zeros(1).expand(5), torch.zeros(4, 4)[:, :3], torch.zeros(4, 4)[::2]],
    ids=["expanded", "columns", "every second row"],
)
def test_memory_with_gaps_or_overlaps_is_refused(param):
    param = param.detach().requires_grad_()
    good = torch.ones(3, requires_grad=True)
    param.grad, good.grad = torch.ones(param.shape), torch.ones(3)
    with pytest.raises(ValueError, match=r"parameter 1 .* gaps or overlapping"):
        Adam([good, param]).step()
    assert torch.equal(good.detach(), torch.ones(3))


def test_a_real_channels_last_model_trains_as_with_torch():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten()).to(
            memory_format=torch.channels_last
        )

    ours, theirs = make(), make()
    optimizers = Adam(ours.parameters(), lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(4):
        x = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()))
