"""torch's own inputs, error inputs and schedules of its optimizers, with our classes in its place.

The classes come from torch's table by name, so that a new optimizer of ours is tested from its
first day. What differs on purpose stands in DIFFERENT, and an entry that no longer differs fails.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import pyparallel.optim

pytest.importorskip("expecttest", reason="torch's table of optimizers needs it")
from torch.testing._internal.common_optimizers import (
    ErrorOptimizerInput,
    OptimizerErrorEnum,
    OptimizerInfo,
    optim_db,
)

INFOS = [info for info in optim_db if hasattr(pyparallel.optim, info.name)]
SHAPES = {
    "Muon": [(4, 3), (7, 1)],
    "Adafactor": [(), (1,), (5, 3), (2, 3, 4, 5)],  # torch divides by the size of an empty one
}
ANY_SHAPES = [(), (1,), (0,), (5, 3), (2, 3, 4, 5)]
STEPS = 5
TOLERANCES = {torch.float32: (1e-5, 1e-6), torch.float64: (1e-12, 1e-13)}

# (optimizer, torch's description of the case) -> why no error is right here.
ANY_PASS = "foreach is accepted: the one fused pass reads a tensor as any other number"
DIFFERENT = {
    (name, description): ANY_PASS
    for name in ("Adam", "AdamW")
    for description in (
        "lr as Tensor doesn't work with foreach & not capturable",
        r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
    )
}


# Errors of ours in other words: (optimizer, description) -> type and words.
OTHER_WORDS = {
    (name, "does not support complex parameters"): (
        TypeError,
        rf"{name}: .*torch\.complex64; supported are",
    )
    for name in ("Adafactor", "Muon")
    if hasattr(pyparallel.optim, name)
}


def ours_of(info: OptimizerInfo) -> Any:
    return getattr(pyparallel.optim, info.name)


def make_params(info: OptimizerInfo, dtype: torch.dtype) -> list[Tensor]:
    shapes = SHAPES.get(info.name, ANY_SHAPES)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def twins_of(params: list[Tensor]) -> list[Tensor]:
    return [param.detach().clone().requires_grad_() for param in params]


def give_grads(*lists: list[Tensor]) -> None:
    for together in zip(*lists, strict=True):
        grad = torch.randn_like(together[0])
        for param in together:
            param.grad = grad.clone()


def input_cases() -> list[Any]:
    """Each with an id; the inputs meant for CUDA too, whose `capturable` torch refuses here."""
    cases = []
    for info in INFOS:
        known = set()
        for device in ("cpu", "cuda"):
            for given in info.optim_inputs_func(device=device, dtype=torch.float32):
                if given.desc not in known:
                    known.add(given.desc)
                    cases.append(pytest.param(info, given.kwargs, id=f"{info.name}-{given.desc}"))
    return cases


def error_cases() -> list[Any]:
    return [
        pytest.param(info, error, id=f"{info.name}-{error.optimizer_error_input.desc}")
        for info in INFOS
        for error in info.optim_error_inputs_func("cpu", torch.float32)
    ]


def assert_agree(ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    if any(isinstance(value, Tensor) for value in theirs.defaults.values()):
        dtype = torch.float32  # torch computes the step size in the dtype of a tensor lr
    rtol, atol = TOLERANCES[dtype]
    if type(theirs).__name__ == "Muon":  # an update is a bfloat16 matrix: two units of its place
        atol += STEPS * 3 * float(theirs.defaults["lr"]) * 2**-6
    for group, twin_group in zip(ours.param_groups, theirs.param_groups, strict=True):
        for param, twin in zip(group["params"], twin_group["params"], strict=True):
            torch.testing.assert_close(param, twin, rtol=rtol, atol=atol)
            for key, value in theirs.state[twin].items():
                if value is None or key == "step":  # SGD without momentum keeps None
                    continue
                torch.testing.assert_close(ours.state[param][key], value, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("info", "hyper"), input_cases())
def test_every_input_of_torch_gives_what_torch_gives(info, hyper, dtype):
    params = make_params(info, dtype)
    twins = twins_of(params)
    ours = ours_of(info)(params, **hyper)
    theirs = info.optim_cls(twins, **{k: v for k, v in hyper.items() if k != "capturable"})
    if "foreach" in theirs.defaults:
        theirs.param_groups[0]["foreach"] = False
    for _ in range(STEPS):
        give_grads(params, twins)
        ours.step()
        theirs.step()
    assert_agree(ours, theirs, dtype)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_flags_that_choose_an_implementation_change_no_bit(info, flag):
    if flag not in info.optim_cls([torch.zeros(2, 2, requires_grad=True)]).defaults:
        pytest.skip(f"torch.optim.{info.name} has no {flag}")
    params = make_params(info, torch.float32)
    twins = twins_of(params)
    plain, flagged = ours_of(info)(params), ours_of(info)(twins, **{flag: True})
    for _ in range(STEPS):
        give_grads(params, twins)
        plain.step()
        flagged.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    assert flagged.state_dict()["param_groups"][0][flag] is True


@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
def test_differentiable_is_refused_by_name(info):
    if "differentiable" not in info.supported_impls:
        pytest.skip(f"torch.optim.{info.name} has no differentiable")
    with pytest.raises(RuntimeError, match=f"{info.name}: differentiable=True cannot be fused"):
        ours_of(info)(make_params(info, torch.float32), differentiable=True)


def provoke(cls: Any, error: ErrorOptimizerInput) -> None:
    given = error.optimizer_error_input
    params = given.params
    if params is None:
        params = [torch.randn(2, 2, requires_grad=True)]
    if error.error_on == OptimizerErrorEnum.CONSTRUCTION_ERROR:
        cls(params, **given.kwargs)
        return
    optimizer = cls(params, **given.kwargs)
    optimizer.step()


@pytest.mark.parametrize(("info", "error"), error_cases())
def test_every_error_of_torch_is_raised_in_its_words(info, error):
    description = error.optimizer_error_input.desc
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if (info.name, description) in DIFFERENT:
            provoke(ours_of(info), error)
            return
        with pytest.raises(error.error_type, match=error.error_regex) as theirs:
            provoke(info.optim_cls, error)
        if (info.name, description) in OTHER_WORDS:
            kind, pattern = OTHER_WORDS[info.name, description]
            with pytest.raises(kind, match=pattern):
                provoke(ours_of(info), error)
            return
        with pytest.raises(error.error_type, match=error.error_regex) as ours:
            provoke(ours_of(info), error)
    assert words(ours.value).startswith(words(theirs.value))  # ours may say more


def words(error: BaseException) -> str:
    return re.sub(r"\d+\.\d+", "", str(error))


def test_every_exception_is_a_case_of_torch():
    errors = {
        (info.name, error.optimizer_error_input.desc)
        for info in INFOS
        for error in info.optim_error_inputs_func("cpu", torch.float32)
    }
    listed = {*DIFFERENT, *OTHER_WORDS}
    assert listed <= errors, listed - errors


SCHEDULES = [
    schedule
    for info in optim_db
    if info.name in ("Adam", "SGD")
    for schedule in info.scheduler_inputs
]


@pytest.mark.parametrize("number", range(len(SCHEDULES)))
@pytest.mark.parametrize("info", INFOS, ids=lambda info: info.name)
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["number", "tensor"])
def test_every_schedule_of_torch_drives_them(info, number, tensor_lr):
    params = make_params(info, torch.float32)[-1:]
    twins = twins_of(params)
    lrs = [torch.tensor(0.05) if tensor_lr else 0.05 for _ in range(2)]
    ours, theirs = ours_of(info)(params, lr=lrs[0]), info.optim_cls(twins, lr=lrs[1])
    schedules = [[make(optimizer) for make in SCHEDULES[number]] for optimizer in (ours, theirs)]
    for step in range(12):
        give_grads(params, twins)
        for optimizer, own in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            for schedule in own:
                plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
                schedule.step(*([float(step)] if plateau else []))
    assert float(ours.param_groups[0]["lr"]) == float(theirs.param_groups[0]["lr"]) != 0.05
    torch.testing.assert_close(params, twins, rtol=1e-5, atol=1e-5)
