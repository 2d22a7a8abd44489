"""16-bit parameters: float32 moments, float32 masters on request, rounding as torch rounds."""

from __future__ import annotations

import pytest
import torch

from adam_reference import AdamReference, assert_follows, copies, give_random_grads, random_params
from pyparallel.optim import Adam, AdamW

HALVES = [torch.bfloat16, torch.float16]
SIZES = (0, 1, 3, 513, 0, 70_001)
OPTIONS = {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}


def bits(tensor):
    return tensor.detach().view(torch.int16)


@pytest.mark.parametrize("dtype", HALVES)
def test_master_is_trained_exactly_like_a_float32_parameter(dtype):
    params = random_params(SIZES, dtype)
    wide = [param.detach().float().requires_grad_() for param in params]
    ours, theirs = AdamW(params, **OPTIONS, master="fp32"), AdamW(wide, **OPTIONS)
    for _ in range(4):
        give_random_grads(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
        for param, twin in zip(params, wide, strict=True):
            state = ours.state[param]
            assert torch.equal(state["master"], twin)
            assert torch.equal(bits(param), bits(twin.to(dtype)))
            for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                assert state[key].dtype == torch.float32
                assert torch.equal(state[key], theirs.state[twin][key])


@pytest.mark.parametrize("dtype", HALVES)
def test_master_follows_the_papers(dtype):
    params = random_params(SIZES, dtype)
    references = [AdamReference(param, lr=0.01) for param in params]
    optimizer = Adam(params, lr=0.01, master="fp32")
    for _ in range(5):
        give_random_grads(params)
        for reference, param in zip(references, params, strict=True):
            reference.step(param.grad)
        optimizer.step()
    masters = [optimizer.state[param]["master"] for param in params]
    states = dict(zip(masters, (optimizer.state[param] for param in params), strict=True))
    optimizer.state = states  # the masters stand where the parameters stood
    assert_follows(optimizer, masters, references)


@pytest.mark.parametrize("dtype", HALVES)
def test_without_master_every_step_rounds_the_float32_update(dtype):
    params = random_params(SIZES, dtype)
    ours = AdamW(params, **OPTIONS)
    wide = [param.detach().float().requires_grad_() for param in params]
    theirs = AdamW(wide, **OPTIONS)
    for _ in range(4):
        give_random_grads(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
        for param, twin in zip(params, wide, strict=True):
            twin.data = twin.detach().to(dtype).float()
            assert torch.equal(bits(param), bits(twin.to(dtype)))
            assert "master" not in ours.state[param]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("master", [None, "fp32"])
def test_small_updates_survive_only_with_a_master(dtype, master):
    param = torch.ones(100, dtype=dtype, requires_grad=True)
    optimizer = Adam([param], lr=1e-4, master=master)
    for _ in range(50):
        param.grad = torch.ones_like(param)
        optimizer.step()
    expected = 1.0 if master is None else 1 - 50 * 1e-4
    torch.testing.assert_close(param.float(), torch.full((100,), expected), rtol=4e-3, atol=0)
    assert (param == 1).all() == (master is None)


@pytest.mark.parametrize("dtype", HALVES)
def test_ties_round_to_even(dtype):
    unit = torch.finfo(dtype).eps
    ties = torch.tensor(
        [1 + unit / 2, 1 + 3 * unit / 2, -1 - unit / 2, -1 - 3 * unit / 2, 2 + unit]
    )
    param = ties.to(dtype).requires_grad_()
    optimizer = Adam([param], lr=0.0, master="fp32")
    param.grad = torch.ones_like(param)
    optimizer.step()
    optimizer.state[param]["master"].copy_(ties)
    optimizer.step()
    assert torch.equal(optimizer.state[param]["master"], ties)
    expected = [1, 1 + 2 * unit, -1, -1 - 2 * unit, 2]
    assert param.tolist() == expected == ties.to(dtype).tolist()


def test_second_moments_of_float16_do_not_underflow():
    param = torch.zeros(64, dtype=torch.float16, requires_grad=True)
    reference = AdamReference(param, lr=0.01)
    optimizer = Adam([param], lr=0.01, master="fp32")
    for _ in range(3):
        param.grad = torch.full((64,), 1e-5, dtype=torch.float16)  # its square is 0 in float16
        reference.step(param.grad)
        optimizer.step()
    assert (optimizer.state[param]["exp_avg_sq"] > 0).all()
    torch.testing.assert_close(param.double(), reference.param, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", HALVES)
def test_values_out_of_range_become_what_torch_makes_of_them(dtype):
    param = torch.tensor([1.0, float("nan"), 0.0, -0.0], dtype=dtype).requires_grad_()
    optimizer = Adam([param], lr=1e5, master="fp32")
    param.grad = torch.tensor([1.0, 1.0, 0.0, float("nan")], dtype=dtype)
    optimizer.step()
    master = optimizer.state[param]["master"]
    torch.testing.assert_close(param.detach(), master.to(dtype), rtol=0, atol=0, equal_nan=True)
    assert param[0].isinf() == (dtype == torch.float16)
    assert param.isnan().tolist() == [False, True, False, True]


@pytest.mark.skipif(not hasattr(torch.zeros(1), "grad_dtype"), reason="no grad_dtype in this torch")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("master", [None, "fp32"])
def test_float32_gradients_of_16_bit_parameters_are_not_rounded(dtype, master):
    param = torch.ones(9, dtype=dtype, requires_grad=True)
    param.grad_dtype = torch.float32
    param.grad = torch.full((9,), 1 + 2**-20)
    optimizer = Adam([param], lr=0.1, master=master)
    optimizer.step()
    expected = torch.full((9,), (1 - 0.9) * (1 + 2**-20), dtype=torch.float64)
    exp_avg = optimizer.state[param]["exp_avg"].double()
    torch.testing.assert_close(exp_avg, expected, rtol=1e-7, atol=0)


def test_one_group_of_several_dtypes_counts_steps_once_each():
    dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float32, torch.bfloat16]
    params = [torch.randn(9).to(dtype).requires_grad_() for dtype in dtypes]
    twins = copies(params)
    ours, theirs = Adam(params, lr=0.1), torch.optim.Adam(twins, lr=0.1)
    for _ in range(3):
        give_random_grads(params, twins)
        ours.step()
        theirs.step()
    assert [ours.state[param]["step"].item() for param in params] == [3.0] * 5
    for param, twin in zip(params, twins, strict=True):
        tolerance = 1e-5 if param.dtype == torch.float32 else 0.05
        torch.testing.assert_close(param, twin, rtol=tolerance, atol=tolerance)


def test_steps_do_not_freeze_in_a_low_precision_default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        param = torch.ones(3, requires_grad=True)
        param.grad = torch.ones(3, dtype=torch.bfloat16)
        optimizer = Adam([param], lr=0.0)
        for _ in range(300):  # bfloat16 counts to 256
            optimizer.step()
    finally:
        torch.set_default_dtype(before)
    assert optimizer.state[param]["step"].dtype == torch.float32
    assert optimizer.state[param]["step"].item() == 300
