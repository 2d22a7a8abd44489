"""Optimizers with norms or matrices: lists of any dtype, order, gradients and groups."""

from __future__ import annotations

import warnings

import pytest
import torch

from adam_reference import copies
from measured_cases import (
    KEPT,
    assert_same_bits,
    each,
    each_kept_as,
    give,
    make,
    random_list,
    snapshot,
    train,
)


@each
def test_missing_gradients_leave_a_parameter_to_itself(case):
    """In a list as alone: each parameter has its own count, norms and states."""
    params = random_list(case)
    twins = copies(params)
    together, alone = make(case, params), [make(case, [twin]) for twin in twins]
    for step in range(5):
        give(params, twins)
        for index, (param, twin) in enumerate(zip(params, twins, strict=True)):
            if (step + index) % 3 == 0:
                param.grad = twin.grad = None
        together.step()
        for optimizer in alone:
            optimizer.step()
    for param, twin, optimizer in zip(params, twins, alone, strict=True):
        atol = 0.02 * 2**-5 if case == "muon" else 1e-6
        torch.testing.assert_close(param, twin, rtol=2e-6, atol=atol)
        own, other = together.state[param], optimizer.state[twin]
        assert own.keys() == other.keys()
        assert own.get("step") == other.get("step")


@each
def test_one_group_of_several_dtypes(case):
    dtypes = [torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32]
    shape = (33, 17)
    params = [torch.randn(shape).to(dtype).requires_grad_() for dtype in dtypes]
    wide = [param.detach().double().requires_grad_() for param in params]
    ours, theirs = make(case, params), make(case, wide)
    for _ in range(3):
        give(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.double()
        ours.step()
        theirs.step()
    for param, twin in zip(params, wide, strict=True):
        tolerance = 2e-5 if case != "muon" else 2**-8
        if param.dtype in (torch.bfloat16, torch.float16):
            tolerance = 0.03
        torch.testing.assert_close(param.double(), twin, rtol=tolerance, atol=tolerance)


@each_kept_as(KEPT[0], KEPT[3], KEPT[4])
def test_dense_memory_of_any_order(case, dtype, options):
    plain = [torch.randn(9, 4), torch.randn(4, 9), torch.randn(33, 65)]
    moved = [tensor.t().contiguous().t() for tensor in plain]
    if case != "muon":
        plain.append(torch.randn(4, 3, 5, 2))
        moved.append(plain[-1].to(memory_format=torch.channels_last))
    params, twins = ([t.to(dtype).requires_grad_() for t in tensors] for tensors in (plain, moved))
    assert not any(twin.is_contiguous() for twin in twins)
    ours, theirs = make(case, params, **options), make(case, twins, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train((ours, theirs), params, twins)
    for param, twin in zip(params, twins, strict=True):
        tolerance = 1e-5 if case != "muon" else 0.02 * 2**-5
        if dtype == torch.bfloat16:
            tolerance += 2**-7
        torch.testing.assert_close(param, twin.contiguous(), rtol=tolerance, atol=tolerance)
        assert all(
            v.dim() != 4 or v.numel() != twin.numel() or v.stride() == twin.stride()
            for v in theirs.state[twin].values()
        )


@each
def test_groups_are_stepped_as_if_alone(case):
    first, second = random_list(case), random_list(case)
    options = {"lr": 0.3, "weight_decay": 0.5, "maximize": True}
    twins, others = copies(first), copies(second)
    together = make(case, [{"params": first}, {"params": second, **options}])
    alone = [make(case, twins), make(case, others, **options)]
    for _ in range(3):
        give(first + second, twins + others)
        together.step()
        for optimizer in alone:
            optimizer.step()
    assert_same_bits(snapshot(together, first), snapshot(alone[0], twins))
    assert_same_bits(snapshot(together, second), snapshot(alone[1], others))


@each
def test_maximize_descends_the_negated_gradient(case):
    params = random_list(case)
    twins = copies(params)
    ours, plain = make(case, params, maximize=True), make(case, twins)
    for _ in range(3):
        give(params, twins)
        for twin in twins:
            twin.grad.neg_()
        ours.step()
        plain.step()
    assert_same_bits(snapshot(ours, params), snapshot(plain, twins))


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_master_is_trained_like_a_float32_parameter(case, dtype):
    params = random_list(case, dtype)
    wide = [param.detach().float().requires_grad_() for param in params]
    ours, theirs = make(case, params, master="fp32"), make(case, wide)
    for _ in range(3):
        give(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
    for param, twin in zip(params, wide, strict=True):
        master = ours.state[param]["master"]
        assert torch.equal(master, twin)
        assert torch.equal(param, master.to(dtype))


@each_kept_as(KEPT[7], KEPT[8])
def test_narrow_states_stay_near_the_wide_ones(case, dtype, options):
    params = random_list(case, dtype)
    twins = copies(params)
    narrow, wide = make(case, params, **options), make(case, twins)
    before = copies(params)
    train((narrow, wide), params, twins, steps=4)
    for param, twin, start in zip(params, twins, before, strict=True):
        if param.numel() > 100:
            error, moved = (param - twin).norm(), (twin - start).norm()
            assert error < 0.2 * moved, (error, moved)
            assert error > 0


@each
def test_a_closure_is_evaluated_and_its_loss_returned(case):
    param = torch.randn(6, 4, requires_grad=True)
    optimizer = make(case, [param])

    def closure():
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(5)]
    assert losses[-1] < losses[0]


@each
def test_a_tensor_as_lr_is_a_number_that_changes(case):
    params = random_list(case)
    twins = copies(params)
    rate = torch.tensor(0.5)
    ours, plain = make(case, params, lr=rate), make(case, twins, lr=0.5)
    for value in (0.5, 0.25):
        rate.fill_(value)
        plain.param_groups[0]["lr"] = value
        train((ours, plain), params, twins, steps=1)
    assert_same_bits(snapshot(ours, params), snapshot(plain, twins))
