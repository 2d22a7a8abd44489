"""FlatLayout: disjoint aligned places in reverse order, buckets within their caps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyparallel.flat import ALIGNMENT_BYTES, FlatLayout

DTYPES = (torch.float32, torch.bfloat16, torch.float64)


@given(
    sizes=st.lists(st.integers(0, 5000), max_size=30),
    dtype=st.sampled_from(DTYPES),
    cap=st.integers(1, 20_000),
    first_cap=st.integers(1, 20_000),
)
def test_places_are_disjoint_aligned_and_bucketed(
    sizes: list[int], dtype: torch.dtype, cap: int, first_cap: int
) -> None:
    params = [torch.empty(size, dtype=dtype) for size in sizes]
    layout = FlatLayout(params, bucket_bytes=cap, first_bucket_bytes=first_cap)
    end = 0
    order = [index for bucket in layout.buckets for index in bucket.members]
    assert order == list(reversed(range(len(sizes))))
    for index in order:
        assert layout.offsets[index] >= end
        assert layout.offsets[index] * dtype.itemsize % ALIGNMENT_BYTES == 0
        end = layout.offsets[index] + sizes[index]
    assert layout.numel >= end
    for number, bucket in enumerate(layout.buckets):
        limit = cap if number else first_cap
        last = bucket.members[-1]
        used = (layout.offsets[last] + sizes[last] - bucket.begin) * dtype.itemsize
        assert used <= limit or len(bucket.members) == 1
    edges = [0, *(bucket.end for bucket in layout.buckets)]
    assert edges[-1] == layout.numel
    assert [bucket.begin for bucket in layout.buckets] == edges[:-1]


def test_views_have_shape_and_order_of_their_parameters() -> None:
    params = [
        torch.empty(3, 4),
        torch.empty(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.empty(6, 5).t(),
        torch.empty(4, 2)[:, 0],
    ]
    layout = FlatLayout(params)
    plane = layout.plane(lambda numel: torch.arange(1, numel + 1, dtype=torch.float32))
    seen: set[float] = set()
    for index, param in enumerate(params):
        view = layout.view(plane, index)
        assert view.shape == param.shape
        expected = param.stride() if index < 3 else (1,)
        assert view.stride() == expected
        values = set(view.flatten().tolist())
        assert len(values) == param.numel()
        assert not seen & values
        seen |= values


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one layout holds one dtype"):
        FlatLayout([torch.empty(1), torch.empty(1, dtype=torch.float64)])
    with pytest.raises(ValueError, match="positive: 0, 5"):
        FlatLayout([], first_bucket_bytes=0, bucket_bytes=5)
    with pytest.raises(ValueError, match=r"shape \(16,\), not \(3,\)"):
        FlatLayout([torch.empty(5)]).plane(lambda _: torch.empty(3))
