"""from_torch goes on where torch's optimizer was."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pyparallel import optim

CASES: list[tuple[type[torch.optim.Optimizer], dict[str, Any]]] = [
    (torch.optim.Adam, {"lr": 0.1, "amsgrad": True, "betas": (0.8, 0.9)}),
    (torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.3, "fused": True}),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    (torch.optim.SGD, {"lr": 0.1}),
    (torch.optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "lr_decay": 0.1}),
    (torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True}),
    (torch.optim.Adafactor, {"lr": 0.1, "weight_decay": 0.1}),
    (torch.optim.Muon, {"lr": 0.1, "momentum": 0.9}),
]


def step(optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for param in group["params"]:
            param.grad = torch.randn(param.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize(("cls", "hyper"), CASES)
@pytest.mark.parametrize("stepped", [0, 2])
def test_it_goes_on_as_torch_would(cls, hyper, stepped):
    second = (7, 2) if cls is torch.optim.Muon else (7,)
    params = [torch.randn(5, 3).requires_grad_(), torch.randn(second).requires_grad_()]
    twins = [param.detach().clone().requires_grad_() for param in params]
    optimizers = [
        cls([{"params": own[:1]}, {"params": own[1:], "lr": 0.01}], **hyper)
        for own in (params, twins)
    ]
    for seed in range(stepped):
        for optimizer in optimizers:
            step(optimizer, seed)
    ours = optim.from_torch(optimizers[0])
    assert type(ours).__name__ == cls.__name__
    assert isinstance(ours, optim.FusedOptimizer)
    assert [group["lr"] for group in ours.param_groups] == [0.1, 0.01]
    for seed in range(3):
        step(ours, 100 + seed)
        step(optimizers[1], 100 + seed)
    for param, twin in zip(params, twins, strict=True):
        atol = 1e-2 if cls is torch.optim.Muon else 1e-5  # it multiplies in bfloat16
        torch.testing.assert_close(param, twin, rtol=1e-5, atol=atol)


def test_options_apply_and_the_old_optimizer_stays():
    param = torch.randn(4, dtype=torch.bfloat16).requires_grad_()
    old = torch.optim.AdamW([param], lr=0.1)
    param.grad = torch.ones_like(param)
    old.step()
    before = old.state[param]["exp_avg"].clone()
    new = optim.from_torch(old, master="fp32", max_norm=1.0)
    new.step()
    assert new.state[param]["master"].dtype == torch.float32
    assert new.state[param]["exp_avg"].dtype == torch.float32
    assert torch.equal(old.state[param]["exp_avg"], before)


def test_what_has_no_twin_is_refused_by_name():
    class Mine(torch.optim.Adam):
        pass

    for cls in (Mine, torch.optim.NAdam):
        with pytest.raises(TypeError, match=rf"{cls.__qualname__} has no twin .*AdamW"):
            optim.from_torch(cls([torch.ones(1, requires_grad=True)]))
