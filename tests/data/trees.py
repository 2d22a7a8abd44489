"""Batches of every shape: what a loader may give, drawn by hypothesis, and compared."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

Pair = namedtuple("Pair", "first second")


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    image: Any
    label: Any = 3


@dataclasses.dataclass
class Mutable:
    inputs: Any
    later: Any = dataclasses.field(init=False, default=None)


class Encoding(UserDict):
    """As tokenizers give."""


class Rows(list):
    """A list with a name."""


class Opaque:
    """Nothing that can be looked into."""


def _tensor(shape: list[int], dtype: torch.dtype, view: str) -> Tensor:
    values = torch.randint(0, 100, shape).to(dtype)
    if view == "transposed":
        return values.transpose(0, -1) if values.ndim else values
    if view == "strided":
        return torch.stack((values, values), -1)[..., 1]
    if view == "expanded":
        return values.expand(3, *shape)
    return values


tensors = st.builds(
    _tensor,
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from(
        [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.uint8]
    ),
    st.sampled_from(["contiguous", "transposed", "strided", "expanded"]),
)
others = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.builds(lambda n: np.arange(n, dtype=np.float32), st.integers(0, 5)),
    st.builds(Opaque),
    st.builds(lambda n: pack_sequence([torch.ones(n + 1), torch.zeros(n)]), st.integers(1, 3)),
)


def _nodes(children: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.lists(children, max_size=3).map(Rows),
        st.dictionaries(st.sampled_from("abc"), children, max_size=3),
        st.dictionaries(st.sampled_from("abc"), children, max_size=3).map(OrderedDict),
        st.dictionaries(st.sampled_from("abc"), children, max_size=3).map(Encoding),
        st.builds(Pair, children, children),
        st.builds(Frozen, children, children),
        st.builds(Mutable, children),
        children.map(lambda child: [child, child]),
    )


batches = st.recursive(st.one_of(tensors, others), _nodes, max_leaves=6)


def assert_equal(one: Any, other: Any) -> None:
    """The same tree, tensor by tensor; strides, too, where there are no gaps."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert torch.equal(one, other)
    elif isinstance(one, PackedSequence):
        assert torch.equal(one.data, other.data)
        assert torch.equal(one.batch_sizes, other.batch_sizes)
    elif isinstance(one, np.ndarray):
        assert np.array_equal(one, other)
    elif isinstance(one, dict | UserDict):
        assert list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_equal(left, right)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other
