"""Any mixture of shapes, dtypes, layouts, missing gradients and groups follows the papers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adam_reference import AdamReference, assert_follows
from pyparallel.optim import Adam

LAYOUTS = {
    "plain": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor,
    "unaligned": lambda tensor: torch.cat([torch.zeros(1), tensor.flatten()])[1:].view(
        tensor.shape
    ),
    "channels_last": lambda tensor: (
        tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
    ),
}
SHAPES = st.one_of(
    st.lists(st.integers(0, 9), max_size=4).map(tuple),
    st.sampled_from([(0,), (1,), (511,), (513,), (65_537,), (3, 1, 5), (1, 1, 1, 1), (2, 3, 4, 5)]),
)
DTYPES = st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16])


@dataclass
class Part:
    """One parameter: how it is made and in which steps it has a gradient."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: str
    pattern: list[bool]


PARTS = st.builds(
    Part,
    shape=SHAPES,
    dtype=DTYPES,
    layout=st.sampled_from(sorted(LAYOUTS)),
    pattern=st.lists(st.booleans(), min_size=3, max_size=3),
)
OPTIONS = st.fixed_dictionaries(
    {
        "lr": st.floats(1e-4, 0.5),
        "betas": st.tuples(st.floats(0, 0.99), st.floats(0.5, 0.9999)),
        "eps": st.sampled_from([1e-8, 1e-4, 1.0]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
    }
)


def make(part: Part) -> Tensor:
    value = torch.randn(part.shape).to(part.dtype).float()
    return LAYOUTS[part.layout](value).to(part.dtype).requires_grad_()


@settings(max_examples=150)
@given(
    groups=st.lists(st.tuples(st.lists(PARTS, min_size=1, max_size=6), OPTIONS), max_size=3),
    decoupled=st.booleans(),
    number=st.integers(0, 2**31),
)
def test_any_mixture_follows_the_papers(
    groups: list[tuple[list[Part], dict[str, Any]]], decoupled: bool, number: int
) -> None:
    torch.manual_seed(number)
    params = [[make(part) for part in parts] for parts, _ in groups]
    if not params:
        return
    references = [
        [AdamReference(param, decoupled=decoupled, **options) for param in own]
        for own, (_, options) in zip(params, groups, strict=True)
    ]
    optimizer = Adam(
        [{"params": own, **options} for own, (_, options) in zip(params, groups, strict=True)],
        decoupled_weight_decay=decoupled,
        master="fp32",
    )
    flat = [
        (part, param, reference)
        for (parts, _), own, twins in zip(groups, params, references, strict=True)
        for part, param, reference in zip(parts, own, twins, strict=True)
    ]
    for step in range(3):
        for part, param, reference in flat:
            param.grad = torch.randn_like(param) if part.pattern[step] else None
            reference.step(param.grad)
        optimizer.step()
    for _, param, reference in flat:
        if reference.count == 0:
            assert param not in optimizer.state
            continue
        state = optimizer.state[param]
        exact = state.get("master", param)
        assert_follows(SimpleOptimizer({exact: state}), [exact], [reference])
        assert torch.equal(param, exact.to(param.dtype))


@dataclass
class SimpleOptimizer:
    """Enough of an optimizer to look at states by their master."""

    state: dict[Tensor, dict[str, Tensor]]
