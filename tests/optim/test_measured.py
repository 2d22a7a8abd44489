"""Optimizers with norms or matrices: what a skip, a scale, a checkpoint leave of the bits."""

from __future__ import annotations

import copy
import io
import pickle

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


@each_kept_as(KEPT[0], KEPT[3], KEPT[9])
@pytest.mark.parametrize("flag", [1.0, 2.0, float("nan")])
def test_a_skipped_step_touches_nothing(case, flag, dtype, options):
    params = random_list(case, dtype)
    optimizer = make(case, params, **options)
    train([optimizer], params, steps=2)
    before = snapshot(optimizer, params)
    for param in params:
        param.grad = torch.full_like(param, float("inf"))
    optimizer.found_inf = torch.tensor(flag)
    optimizer.step()
    assert_same_bits(snapshot(optimizer, params), before)
    give(params)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert not torch.equal(params[3], before[0][3])


@each
def test_the_scale_divides_once(case):
    params = random_list(case)
    twins = copies(params)
    ours, plain = make(case, params), make(case, twins)
    ours.grad_scale, ours.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
    for _ in range(3):
        give(params, twins)
        for param in params:
            param.grad *= 1024.0
        ours.step()
        plain.step()
    assert_same_bits(snapshot(ours, params), snapshot(plain, twins))


@each
def test_max_norm_clips_as_torch_clips(case):
    params = random_list(case)
    twins = copies(params)
    ours, plain = make(case, params, max_norm=0.5), make(case, twins)
    for step in range(4):
        give(params, twins, scale=10.0**-step)
        norm = torch.nn.utils.clip_grad_norm_(twins, 0.5)
        ours.step()
        plain.step()
        torch.testing.assert_close(ours.last_grad_norm, norm, rtol=1e-5, atol=0)
    for param, twin in zip(params, twins, strict=True):
        # Muon's matrices are bfloat16: one that rounds the other way moves by a unit of that.
        atol = 0.02 * 2**-5 if case == "muon" else 1e-5
        torch.testing.assert_close(param, twin, rtol=1e-4, atol=atol)
    before = snapshot(ours, params)
    params[3].grad[0] = float("inf")
    ours.step()
    assert_same_bits(snapshot(ours, params), before)


@each_kept_as(*KEPT)
def test_a_checkpoint_resumes_to_the_bit(case, dtype, options):
    params = random_list(case, dtype)
    first = make(case, params, **options)
    train([first], params)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    twins = copies(params)
    second = make(case, twins, **options)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert_same_bits(snapshot(first, params), snapshot(second, twins))
    train((first, second), params, twins)
    assert_same_bits(snapshot(first, params), snapshot(second, twins))


@each
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_deepcopy_and_pickle_go_on_alike(case, clone):
    params = random_list(case, torch.bfloat16)
    original = make(case, params, master="fp32")
    train([original], params)
    twin = clone(original)
    twins = twin.param_groups[0]["params"]
    assert twins[1] is not params[1]
    train((original, twin), params, twins)
    assert_same_bits(snapshot(original, params), snapshot(twin, twins))


@each
@pytest.mark.usefixtures("threads")
def test_threads_do_not_change_the_bits(case):
    start, results = random_list(case), []
    grads = [torch.randn_like(param) for param in start]
    for threads in (1, 2):
        params = copies(start)
        optimizer = make(case, params)
        for _ in range(3):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.clone()
            torch.set_num_threads(threads if case != "muon" else 1)  # torch's products may differ
            optimizer.step()
        results.append(snapshot(optimizer, params))
    assert_same_bits(*results)


@each
def test_groups_of_foreign_checkpoints_get_what_they_lack(case):
    params = random_list(case)
    optimizer = make(case, params, maximize=True)
    train([optimizer], params)
    checkpoint = copy.deepcopy(optimizer.state_dict())
    group = checkpoint["param_groups"][0]
    expected = dict(group)
    for key in set(group) & {"maximize", "foreach", "nesterov"}:  # added to torch's over the years
        del group[key]
    optimizer.load_state_dict(checkpoint)
    assert optimizer.state_dict()["param_groups"][0] == expected
    train([optimizer], params)
