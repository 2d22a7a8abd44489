"""Adam computes what the papers say, to a float32 rounding, and what torch.optim.Adam computes."""

from __future__ import annotations

import inspect
import random
from itertools import product

import pytest
import torch
from torch import nn

import pyparallel
from adam_reference import (
    AdamReference,
    assert_follows,
    copies,
    give_random_grads,
    random_params,
)
from pyparallel.optim import Adam

FLAGS = list(product((0.0, 0.1), (False, True), (False, True), (False, True)))
STEPS = 4


def random_hyperparameters(seed: int) -> dict[str, object]:
    draw = random.Random(seed)
    options = {
        "lr": 10 ** draw.uniform(-4, -1),
        "betas": (draw.uniform(0.5, 0.95), draw.uniform(0.8, 0.9999)),
        "eps": draw.choice([1e-8, 1e-3, 0.5]),
    }
    print(options)
    return options


@pytest.mark.parametrize(("weight_decay", "amsgrad", "maximize", "decoupled"), FLAGS)
def test_follows_the_papers_and_torch(weight_decay, amsgrad, maximize, decoupled, seed):
    options = {
        **random_hyperparameters(seed),
        "weight_decay": weight_decay,
        "amsgrad": amsgrad,
        "maximize": maximize,
    }
    params = random_params()
    twins = copies(params)
    references = [AdamReference(param, decoupled=decoupled, **options) for param in params]
    ours = Adam(params, **options, decoupled_weight_decay=decoupled)
    theirs = torch.optim.Adam(twins, **options, decoupled_weight_decay=decoupled)
    for step in range(STEPS):
        give_random_grads(params, twins, scale=10.0 ** -(step % 3))
        for reference, param in zip(references, params, strict=True):
            reference.step(param.grad)
        ours.step()
        theirs.step()
    assert_follows(ours, params, references)
    assert_follows(theirs, twins, references)  # or the bound would mean nothing
    torch.testing.assert_close(params, twins, rtol=3e-6, atol=2e-5 * options["lr"])


def test_steps_are_counted_per_parameter():
    params = random_params((5, 0, 70_001, 3, 8))
    references = [AdamReference(param, lr=0.1) for param in params]
    optimizer = Adam(params, lr=0.1)
    patterns = ["11111", "01011", "00000", "10110", "11111", "11110"]
    for pattern in patterns:
        give_random_grads(params)
        for param, reference, present in zip(params, references, pattern, strict=True):
            if present == "0":
                param.grad = None
            reference.step(param.grad)
        optimizer.step()
    assert_follows(optimizer, params, references)
    assert [reference.count for reference in references] == [4, 4, 4, 5, 3]


def test_a_parameter_never_used_keeps_no_state_and_its_value():
    used, unused = random_params((4, 4))
    before = unused.detach().clone()
    optimizer = Adam([used, unused], weight_decay=0.1)
    used.grad = torch.ones(4)
    optimizer.step()
    assert torch.equal(unused, before)
    assert unused not in optimizer.state


def test_groups_have_their_own_hyperparameters():
    params = random_params((9, 10, 11, 12))
    options = [
        {"lr": 0.1},
        {"lr": 0.01, "betas": (0.5, 0.9), "eps": 1e-3},
        {"lr": 1e-3, "weight_decay": 0.5, "maximize": True},
        {"lr": 1e-2, "amsgrad": True},
    ]
    references = [AdamReference(p, **o) for p, o in zip(params, options, strict=True)]
    groups = [{"params": [p], **o} for p, o in zip(params, options, strict=True)]
    optimizer = Adam(groups[:2])
    for step in range(4):
        if step == 1:
            optimizer.add_param_group(groups[2])
            optimizer.add_param_group(groups[3])
        give_random_grads(params)
        for reference, param in list(zip(references, params, strict=True))[: 2 if step == 0 else 4]:
            reference.step(param.grad)
        optimizer.step()
    assert_follows(optimizer, params, references)


def test_tensor_lr_is_read_at_every_step():
    (param,) = random_params((33,))
    reference = AdamReference(param)
    lr = torch.tensor(0.5)
    optimizer = Adam([param], lr=lr)
    for value in (0.5, 0.25, 0.0625):
        lr.fill_(value)
        reference.lr = value
        give_random_grads([param])
        reference.step(param.grad)
        optimizer.step()
    assert_follows(optimizer, [param], [reference])


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=4),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=6),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.5**epoch),
    ],
    ids=["cosine", "one cycle with betas", "lambda"],
)
def test_schedulers_drive_it_as_they_drive_torch(schedule):
    (param,) = random_params((101,))
    (twin,) = copies([param])
    ours, theirs = Adam([param], lr=0.1), torch.optim.Adam([twin], lr=0.1)
    schedules = schedule(ours), schedule(theirs)
    for _ in range(5):
        give_random_grads([param], [twin])
        ours.step()
        theirs.step()
        for each in schedules:
            each.step()
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    torch.testing.assert_close(param, twin, rtol=1e-5, atol=1e-6)


def test_closure_is_evaluated_with_gradients_and_its_loss_returned():
    layer, twin = nn.Linear(3, 1), nn.Linear(3, 1)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(8, 3)
    losses = []
    for model, cls in ((layer, Adam), (twin, torch.optim.Adam)):
        optimizer = cls(model.parameters(), lr=0.1)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        losses.append([optimizer.step(closure).item() for _ in range(4)])
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0][-1] < losses[0][0]


@pytest.mark.usefixtures("threads")
def test_threads_do_not_change_the_bits():
    results = []
    start = random_params()
    grads = [torch.randn_like(param) for param in start]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        params = copies(start)
        optimizer = Adam(params, lr=0.01, amsgrad=True, weight_decay=0.1)
        for _ in range(3):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            optimizer.step()
        results.append(params)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_nan_and_infinite_gradients_go_where_torch_lets_them_go():
    values = torch.tensor([1.0, float("nan"), float("inf"), -float("inf"), 0.0, 1e30, 1e-40])
    for amsgrad in (False, True):
        param, twin = torch.ones(7, requires_grad=True), torch.ones(7, requires_grad=True)
        ours = Adam([param], lr=0.1, amsgrad=amsgrad)
        theirs = torch.optim.Adam([twin], lr=0.1, amsgrad=amsgrad)
        for grad in (values, torch.ones(7)):
            param.grad, twin.grad = grad.clone(), grad.clone()
            ours.step()
            theirs.step()
        torch.testing.assert_close(param, twin, equal_nan=True)
        for key, value in theirs.state[twin].items():
            own = ours.state[param][key]
            finite = value.isfinite()
            assert torch.equal(own.isfinite(), finite)  # torch makes a NaN of inf - inf here
            torch.testing.assert_close(own[finite], value[finite])


@pytest.mark.parametrize("decoupled", [False, True])
def test_an_infinite_parameter_without_decay_stays_infinite(decoupled):
    """As a mask of -inf in learned logits: its gradient is zero."""
    param = torch.tensor([-float("inf"), float("inf"), 1.0], requires_grad=True)
    optimizer = Adam([param], lr=0.1, decoupled_weight_decay=decoupled)
    for _ in range(2):
        param.grad = torch.tensor([0.0, 0.0, 1.0])
        optimizer.step()
    assert param[:2].tolist() == [-float("inf"), float("inf")]
    assert optimizer.state[param]["exp_avg"].isfinite().all()


def test_takes_the_arguments_of_torch_in_their_order():
    ours = inspect.signature(Adam.__init__).parameters
    theirs = inspect.signature(torch.optim.Adam.__init__).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default
        assert ours[name].kind == parameter.kind


def test_a_step_is_recorded_as_a_span():
    (param,) = random_params((5,))
    param.grad = torch.ones(5)
    optimizer = Adam([param])
    pyparallel.monitor.SPANS.reset()
    optimizer.step()
    (span,) = pyparallel.monitor.SPANS.spans()
    assert span.name == "optimizer"
    assert span.end_ns > span.start_ns
