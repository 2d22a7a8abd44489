"""Any mixture of shapes, dtypes, layouts, groups and missing gradients follows the papers.

Every element is compared within the error bound that the reference carries for it: what float32
arithmetic, narrow states and rounded parameters may lose, no more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from family import FAMILY, Member, assert_same_bits, give_grads, make_params, twins_of
from references import ROUNDINGS, Reference

STEPS = 3
# A momentum that changes by a good part of itself in every step does not stand still.
NEAREST = {("SGD", "bf16")}

LAYOUTS = {
    "plain": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor,
    "unaligned": lambda tensor: torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(
        tensor.shape
    ),
    "channels_last": lambda tensor: (
        tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
    ),
}
SHAPES = st.one_of(
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.sampled_from([(), (0,), (1,), (511,), (16_385,), (3, 1, 5), (33, 7), (2, 3, 4, 5)]),
)


@dataclass(frozen=True)
class Part:
    """One parameter: how it is made and in which steps it has a gradient."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    pattern: tuple[bool, ...]


def parts_of(*dtypes: torch.dtype) -> st.SearchStrategy[Part]:
    return st.builds(
        Part,
        shape=SHAPES,
        dtype=st.sampled_from(dtypes),
        layout=st.sampled_from(sorted(LAYOUTS)),
        pattern=st.tuples(*[st.booleans()] * STEPS),
    )


def groups_of(*dtypes: torch.dtype) -> st.SearchStrategy[list[Any]]:
    """Parts, the number of a case of the member, a learning rate."""
    one = st.tuples(
        st.lists(parts_of(*dtypes), min_size=1, max_size=5),
        st.integers(0, 9),
        st.floats(1e-4, 0.3),
    )
    return st.lists(one, min_size=1, max_size=3)


def make(part: Part) -> Tensor:
    value = LAYOUTS[part.layout](torch.randn(part.shape).to(part.dtype))
    return value.detach().requires_grad_()


Tracked = list[tuple[Part, Tensor, Reference]]


def train(
    member: Member, groups: list[Any], number: int, kept: dict[torch.dtype, str], **options: Any
) -> tuple[torch.optim.Optimizer, Tracked]:
    """Random groups after STEPS steps, and their references."""
    torch.manual_seed(number)
    tracked: Tracked = []
    given_groups = []
    for parts, case, lr in groups:
        hyper = {"lr": lr, **member.cases[case % len(member.cases)]}
        params = [make(part) for part in parts]
        given_groups.append({"params": params, **hyper})
        for part, param in zip(parts, params, strict=True):
            reference = member.reference(
                param,
                kept=kept.get(part.dtype, "exact"),
                state_dtype=options.get("state_dtype", "fp32"),
                **hyper,
            )
            tracked.append((part, param, reference))
    optimizer = member.ours(given_groups, **options)
    for step in range(STEPS):
        for part, param, reference in tracked:
            param.grad = torch.randn_like(param) if part.pattern[step] else None
            reference.step(param.grad)
        optimizer.step()
    return optimizer, tracked


def assert_within(what: str, value: Tensor, reference: Any) -> None:
    excess = (value.detach().double() - reference.value).abs() - reference.error
    if value.numel() and not (excess.max() <= 0):
        at = int(excess.argmax())
        raise AssertionError(
            f"{what} of shape {tuple(value.shape)}, element {at}: {value.flatten()[at]} instead of "
            f"{reference.value.flatten()[at]} +- {reference.error.flatten()[at]}"
        )


def assert_follows(optimizer: torch.optim.Optimizer, tracked: Tracked) -> None:
    for index, (part, param, reference) in enumerate(tracked):
        state = optimizer.state.get(param, {})
        assert_within(
            f"{part.dtype} parameter {index}", state.get("master", param), reference.param
        )
        if reference.count and "step" in state:
            assert state["step"].item() == reference.count
        for name, expected in reference.states.items():
            if state[name].dtype != torch.uint8:
                assert_within(f"{name} of parameter {index}", state[name], expected)


@pytest.mark.parametrize("member", FAMILY, ids=str)
@settings(max_examples=14)
@given(
    groups=groups_of(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    number=st.integers(0, 2**31),
)
def test_mixtures_without_masters_round_each_step_to_nearest(member, groups, number):
    kept = dict.fromkeys(ROUNDINGS, "nearest")
    assert_follows(*train(member, groups, number, kept))


@pytest.mark.parametrize("member", FAMILY, ids=str)
@settings(max_examples=8)
@given(
    groups=groups_of(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    number=st.integers(0, 2**31),
)
def test_mixtures_with_masters_lose_nothing_and_round_once(member, groups, number):
    optimizer, tracked = train(member, groups, number, {}, master="fp32")
    assert_follows(optimizer, tracked)
    for part, param, reference in tracked:
        if part.dtype in (torch.bfloat16, torch.float16) and reference.count:
            assert torch.equal(param, optimizer.state[param]["master"].to(part.dtype))


@pytest.mark.parametrize("member", FAMILY, ids=str)
@settings(max_examples=8)
@given(groups=groups_of(torch.bfloat16), number=st.integers(0, 2**31))
def test_a_remainder_completes_its_parameter_to_the_master(member, groups, number):
    """The parameter is the master rounded, bit for bit, and the master follows the papers.

    An even parameter is what 65537 floats round to: the tie above it is kept one ulp lower, so a
    step may lose that beside float32's own rounding, and no more.
    """
    optimizer, tracked = train(member, groups, number, {}, master="remainder")
    for index, (_, param, reference) in enumerate(tracked):
        if not reference.count:
            continue
        remainder = optimizer.state[param]["remainder"]
        assert remainder.dtype == torch.int16
        upper = param.detach().view(torch.int16).int() << 16
        master = (upper + remainder.int()).view(torch.float32)
        assert torch.equal(master.bfloat16(), param.detach())
        wide = reference.param
        ulps = 2 * reference.count * 2.0**-23 * (wide.value.abs() + wide.error)
        assert_within(f"master {index}", master, replace(wide, error=wide.error + ulps))


@pytest.mark.parametrize("member", FAMILY, ids=str)
@pytest.mark.parametrize("state_dtype", ["bf16", "8bit"])
@settings(max_examples=8)
@given(groups=groups_of(torch.float64, torch.float32, torch.bfloat16), number=st.integers(0, 2**31))
def test_narrow_states_stay_within_their_bound(member, state_dtype, groups, number):
    optimizer, tracked = train(
        member, groups, number, {}, state_dtype=state_dtype, master="remainder"
    )
    for part, _, reference in tracked:
        if part.dtype == torch.bfloat16:  # looked at without the remainder
            size = reference.param.value.abs() + reference.param.error
            reference.param.error = reference.param.error + 2.0**-8 * size
    assert_follows(optimizer, tracked)


@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_random_rounding_is_within_one_step_unbiased_and_seeded(member):
    start, grad = torch.randn(20_000).bfloat16(), torch.randn(20_000).bfloat16()
    results = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        param = start.clone().requires_grad_()
        param.grad = grad.clone()
        member.ours([param], lr=1e-3, stochastic_rounding=True, seed=seed).step()
        results[name] = param.detach()
    assert torch.equal(results["one"], results["again"])
    assert not torch.equal(results["one"], results["other"])
    wide = start.float().requires_grad_()
    wide.grad = grad.float()
    member.ours([wide], lr=1e-3).step()
    error = results["one"].float() - wide.detach()
    unit = 2.0 ** (torch.frexp(wide.detach()).exponent - 8.0)
    assert (error.abs() <= unit * 1.001).all()
    fractions = error / unit  # of mean 0 and variance at most 1/4
    assert abs(fractions.mean().item()) < 6 * 0.5 / len(fractions) ** 0.5, fractions.mean()


@pytest.mark.parametrize("member", FAMILY, ids=str)
def test_every_step_draws_other_random_bits(member):
    """With those of the step before, an element would go the same way again and again."""
    start, grad = torch.full((20_000,), 1.5).bfloat16(), torch.ones(20_000).bfloat16()
    param = start.clone().requires_grad_()
    optimizer = member.ours([param], lr=2.0**-8, stochastic_rounding=True)
    moved = []
    for _ in range(2):
        param.grad = grad.clone()
        with torch.no_grad():
            param.copy_(start)
        optimizer.step()
        moved.append(param.detach() != start)
    both = (moved[0] & moved[1]).double().mean()
    alone = moved[0].double().mean() * moved[1].double().mean()
    assert abs(both - alone) < 0.03, "moving in one step tells of moving in the next"


@pytest.mark.parametrize("member", FAMILY, ids=str)
@pytest.mark.parametrize("state_dtype", ["bf16", "8bit"])
def test_narrow_states_are_seeded(member, state_dtype):
    lists = [make_params(sizes=(1, 0, 7, 1000))]
    lists += [twins_of(lists[0]), twins_of(lists[0])]
    options = {"state_dtype": state_dtype, **member.steady}
    one, again, other = (
        member.ours(params, seed=seed, **options)
        for params, seed in zip(lists, (1, 1, 2), strict=True)
    )
    for _ in range(3):
        give_grads(*lists)
        for optimizer in (one, again, other):
            optimizer.step()
    assert_same_bits(one, again)
    states = [optimizer.state_dict()["state"][3] for optimizer in (one, other)]
    differ = any(not torch.equal(value, states[1][key]) for key, value in states[0].items())
    assert differ == ((str(member), state_dtype) not in NEAREST)
