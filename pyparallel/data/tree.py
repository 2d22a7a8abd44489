"""Batches as trees: their leaves, their bytes, and the same tree around other tensors.

torch's pytrees (dicts, lists, tuples, named tuples, whatever is registered), and beside them what
loaders also give: dataclasses, other mappings (``UserDict``), subclasses of list and dict, and
packed sequences. Anything else is a leaf.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree


def leaves(batch: Any) -> Iterator[Any]:
    """The leaves of a tree, in order."""
    for node in pytree.tree_leaves(batch, is_leaf=_is_packed):
        inner = _inner(node)
        if inner is None:
            yield node
        else:
            for child in inner.values():
                yield from leaves(child)


def map_tensors(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    """The same tree with other tensors; a tensor that occurs twice is mapped once.

    Leaves that are no tensors, and what is no tree, are in it as they are.
    """
    mapped: dict[int, tuple[Tensor, Tensor]] = {}  # holds the keys: an id may be given again

    def of_tensor(tensor: Tensor) -> Tensor:
        if id(tensor) not in mapped:
            mapped[id(tensor)] = tensor, function(tensor)
        return mapped[id(tensor)][1]

    def of_node(node: Any) -> Any:
        if isinstance(node, Tensor):
            return of_tensor(node)
        inner = _inner(node)
        return node if inner is None else _around(node, {k: of_tree(v) for k, v in inner.items()})

    def of_tree(tree: Any) -> Any:
        return pytree.tree_map(of_node, tree, is_leaf=_is_packed)

    return of_tree(batch)


def num_bytes(batch: Any) -> int:
    """Bytes of the tensors, arrays, byte strings and strings in a tree, each object once."""
    unique = {id(leaf): leaf for leaf in leaves(batch)}
    return sum(map(_bytes_of, unique.values()))


def _is_packed(node: Any) -> bool:
    return isinstance(node, PackedSequence)


def _inner(node: Any) -> dict[Any, Any] | None:
    """What hangs below a node that torch's pytrees take for a leaf; None for a leaf."""
    if _is_packed(node):
        # The sizes stay on the CPU: a packed sequence takes no others.
        return {
            name: getattr(node, name) for name in ("data", "sorted_indices", "unsorted_indices")
        }
    if isinstance(node, MutableMapping):
        return dict(node)
    if isinstance(node, list):
        return dict(enumerate(node))
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        names = [field.name for field in dataclasses.fields(node)]
        return {name: getattr(node, name) for name in names if hasattr(node, name)}
    return None


def _around(node: Any, inner: dict[Any, Any]) -> Any:
    """A node of the same kind around other things."""
    if _is_packed(node):
        return PackedSequence(
            inner["data"], node.batch_sizes, inner["sorted_indices"], inner["unsorted_indices"]
        )
    made = copy.copy(node)
    for key, value in inner.items():
        if isinstance(node, MutableMapping | list):
            made[key] = value
        else:
            object.__setattr__(made, key, value)  # also where the dataclass is frozen
    return made


_PARTS = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
    torch.jagged: ("offsets", "values"),
}


def parts(tensor: Tensor) -> list[Tensor]:
    """The strided tensors of which a sparse or nested one consists; itself if it is strided."""
    names = _PARTS.get(tensor.layout)
    return [tensor] if names is None else [getattr(tensor, name)() for name in names]


def _bytes_of(leaf: Any) -> int:
    if isinstance(leaf, Tensor):
        return sum(part.numel() * part.element_size() for part in parts(leaf))
    if isinstance(leaf, np.ndarray | np.generic | memoryview):
        return leaf.nbytes
    return len(leaf) if isinstance(leaf, str | bytes | bytearray) else 0
