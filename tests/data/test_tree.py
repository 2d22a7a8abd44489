"""Trees: every tensor is found, mapped once and put back into a tree of the same kind."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.nn.utils.rnn import pack_sequence

from pyparallel.data import tree
from trees import Encoding, Frozen, Mutable, Opaque, Rows, assert_equal, batches


@given(batches)
def test_the_same_tree_comes_back_around_copies(batch) -> None:
    mapped = tree.map_tensors(torch.clone, batch)
    assert_equal(mapped, batch)
    old, new = list(tree.leaves(batch)), list(tree.leaves(mapped))
    assert len(old) == len(new)
    for one, other in zip(old, new, strict=True):
        assert (one is not other) == isinstance(one, torch.Tensor)
    assert tree.num_bytes(mapped) == tree.num_bytes(batch)


def test_a_tensor_that_occurs_twice_is_mapped_once() -> None:
    tensor, calls = torch.ones(3), []
    mapped = tree.map_tensors(
        lambda one: calls.append(one) or one + 1, {"a": tensor, "b": [tensor]}
    )
    assert len(calls) == 1
    assert mapped["a"] is mapped["b"][0]
    assert tree.num_bytes([tensor, {"b": tensor}]) == 12


def test_what_the_loader_gave_is_left_alone() -> None:
    given_ = [Encoding(a=torch.ones(2)), Rows([torch.ones(2)]), Frozen(torch.ones(2)), Mutable({})]
    before = [copy.copy(one) for one in given_]
    tree.map_tensors(lambda one: one + 1, given_)
    assert_equal(given_, before)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (None, 0),
        ([], 0),
        (torch.empty(0, 5), 0),
        (torch.ones(3, dtype=torch.float64).expand(4, 3), 96),
        ((np.zeros((2, 3), np.int16), np.float32(1)), 16),
        (["abc", b"de", bytearray(5), 7, True, 1.5], 10),
        (Opaque(), 0),
        (torch.eye(3).to_sparse(), 3 * 2 * 8 + 3 * 4),
        (pack_sequence([torch.ones(3), torch.ones(1)]), 16),
        (Frozen, 0),
    ],
)
def test_bytes_are_those_of_the_data(batch, size) -> None:
    assert tree.num_bytes(batch) == size


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_and_nested_tensors_are_the_sum_of_their_parts() -> None:
    compressed = torch.eye(3, dtype=torch.float16).to_sparse_csr()
    assert tree.num_bytes(compressed) == 4 * 8 + 3 * 8 + 3 * 2
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(5)], layout=torch.jagged)
    assert tree.num_bytes(nested) == 3 * 8 + 7 * 4
