"""A contestant that computes something else gets no number: planted faults are found."""

import argparse
import copy

import pytest
import torch
from torch import nn

import pyparallel
from benchmarks import optimizer_step, train_step
from examples.gpt.model import GPT, GPTConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEARNING_RATE = optimizer_step.HYPER["AdamW"]["lr"]


def options_of(**changes):
    options = {"optimizer": "AdamW", "dtype": "fp32", "state_dtype": "fp32", "scaled": False}
    return argparse.Namespace(**(options | {"master": "none"} | changes))


def adamw_verification(name, *, lr=LEARNING_RATE, skipped=None):
    """The check of both sides, with ours at another learning rate or leaving out an element."""
    dtype = DTYPES[name]
    params = [torch.randn(40, 50).to(dtype), torch.randn(7).to(dtype)]
    grads = [torch.randn_like(param) for param in params]
    sides = [[nn.Parameter(param.clone()) for param in params] for _ in range(2)]
    for side in sides:
        for param, grad in zip(side, grads, strict=True):
            param.grad = grad
    master = None if dtype == torch.float32 else "fp32"
    ours = pyparallel.optim.AdamW(sides[0], lr=lr, master=master)
    peer = torch.optim.AdamW(sides[1], lr=LEARNING_RATE, fused=True)

    def step():
        kept = None if skipped is None else sides[0][0].data.view(-1)[skipped].clone()
        ours.step()
        if skipped is not None:
            sides[0][0].data.view(-1)[skipped] = kept

    options = options_of(dtype=name, master=master or "none")
    return optimizer_step.verification(sides, grads, steps=(step, peer.step), options=options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_right_adamw_passes(dtype):
    adamw_verification(dtype)()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_learning_rate_that_is_too_large_is_found(dtype):
    with pytest.raises(AssertionError, match="AdamW of ours"):
        adamw_verification(dtype, lr=3 * LEARNING_RATE)()


def test_an_element_that_is_left_out_is_found():
    with pytest.raises(AssertionError, match="AdamW of ours"):
        adamw_verification("fp32", skipped=1234)()


def test_bytes_per_parameter_are_those_that_a_step_moves():
    def count(master=None, **changes):
        return optimizer_step.bytes_per_parameter(options_of(**changes), master)

    assert count() == (28, 28)
    assert count("fp32", dtype="bf16") == (28, 14)
    assert count(dtype="bf16") == (22, 14)
    assert count(dtype="bf16", state_dtype="bf16") == (14, 14)
    assert count(optimizer="SGD") == (20, 20)
    assert count(scaled=True) == (32, 48)


@pytest.mark.parametrize("fault", [None, "gradient", "parameters"])
def test_trainings_that_differ_are_found(fault):
    config = GPTConfig(vocabulary_size=7, context=8, layers=1, heads=2, width=16)
    tokens = torch.randint(7, (train_step.NUM_BATCHES, 2, 9))
    batches = [(window[:, :-1], window[:, 1:]) for window in tokens]
    model = GPT(config)
    models = (model, copy.deepcopy(model))
    if fault == "gradient":
        models[0].norm.weight.register_hook(lambda grad: 1.01 * grad)
    rates = (
        train_step.LEARNING_RATE * (2 if fault == "parameters" else 1),
        train_step.LEARNING_RATE,
    )
    ours, peer = (
        train_step.Training(model, torch.optim.AdamW(model.parameters(), lr=rate), batches)
        for model, rate in zip(models, rates, strict=True)
    )
    if fault is None:
        train_step.verify(ours, peer)
        return
    with pytest.raises(AssertionError, match=fault):
        train_step.verify(ours, peer)
