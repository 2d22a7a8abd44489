"""Staging: no slab is written before its copies are done, no tensor is read before its own."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fake_copies import FakeCopies
from pyparallel.data.staging import NUM_SLABS, SMALLEST_SLAB, Staged
from trees import assert_equal, batches


class Elsewhere(torch.Tensor):
    device = torch.device("cuda", 1)


def carried(given_: list, *, behind: int) -> list:
    """What the device's stream reads of the batches, when `behind` of them are under way."""
    copies = FakeCopies()
    staged = Staged(copies)
    sent, read = [], []
    for batch in given_:
        sent.append(staged.send(batch))
        if len(sent) > behind:
            read.append(copies.compute(staged.receive(sent.pop(0))))
    read += [copies.compute(staged.receive(one)) for one in sent]
    staged.close()
    assert copies.live_bytes == 0
    return read


@given(st.lists(batches, max_size=6), st.integers(0, 5))
@settings(max_examples=25)
def test_any_batches_arrive_however_far_the_host_runs_ahead(given_, behind) -> None:
    read = carried(given_, behind=behind)
    assert_equal(read, given_)


def test_many_batches_pass_through_few_slabs() -> None:
    sizes = [10, 0, 7000, 3, 40_000, 40_000, 1]
    given_ = [[torch.randn(size), torch.randint(9, (size, 2)).T] for size in sizes]
    assert_equal(carried(given_, behind=4), given_)


def test_slabs_are_reused_and_grow() -> None:
    copies = FakeCopies()
    staged = Staged(copies)
    for size in (1, 2, 3, SMALLEST_SLAB + 1, 5, 6, SMALLEST_SLAB, SMALLEST_SLAB + 512):
        staged.send(torch.ones(size, dtype=torch.uint8))
    assert len(copies.allocated) == NUM_SLABS + 1, "each slab grew when it had to, and only then"
    assert copies.live_bytes == sum(copies.allocated[-2:])
    assert staged.copied().batches == 8 - NUM_SLABS
    staged.close()
    staged.close()
    assert staged.copied().batches == 8
    assert copies.live_bytes == 0


def test_the_order_of_dimensions_stays() -> None:
    copies = FakeCopies()
    staged = Staged(copies)
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    cut = torch.randn(4, 6)[:, :3]
    sent = staged.receive(staged.send([image, cut]))
    assert sent[0].stride() == image.stride()
    assert sent[1].is_contiguous()
    assert_equal(copies.compute(sent), [image, cut])
    staged.close()


def test_slabs_are_aligned() -> None:
    copies, seen = FakeCopies(), []
    copy = copies.copy
    copies.copy = lambda source: seen.append(source.data_ptr() % 512) or copy(source)  # type: ignore[method-assign]
    staged = Staged(copies)
    staged.send([torch.ones(n, dtype=torch.uint8) for n in (1, 511, 513)])
    assert seen == [0, 0, 0]
    staged.close()


def test_gradients_are_wanted_there_too_and_none_flow_back() -> None:
    copies = FakeCopies()
    staged = Staged(copies)
    leaf, plain = torch.ones(3, requires_grad=True), torch.ones(3)
    moved, other, inner = staged.send([leaf, plain, leaf * 2]).batch
    assert moved.requires_grad
    assert moved.is_leaf
    assert inner.is_leaf
    assert not other.requires_grad
    staged.close()


def test_a_source_that_is_not_packed_lives_until_its_copy_is_done() -> None:
    copies = FakeCopies()
    staged = Staged(copies)
    parameter = nn.Parameter(torch.randn(5))
    alive = weakref.ref(parameter)
    staged.send(parameter)
    del parameter
    gc.collect()
    assert alive() is not None
    for _ in range(NUM_SLABS):
        staged.send(torch.ones(1))
    gc.collect()
    assert alive() is None
    staged.close()


def test_a_tensor_on_another_device_makes_the_copies_follow_its_stream() -> None:
    copies = FakeCopies()
    staged = Staged(copies)
    staged.send(torch.ones(2))
    assert copies.follows == 0
    staged.send([torch.ones(2), torch.ones(3).as_subclass(Elsewhere)])
    assert copies.follows == 1
    staged.close()


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_failed_copy_leaves_no_slab_unguarded(fails_at) -> None:
    copies = FakeCopies()
    copies.fails_at = fails_at
    staged = Staged(copies)
    with pytest.raises(MemoryError, match="no room on the device"):
        staged.send([torch.full((100,), 7.0) for _ in range(3)])
    # The copies before the failure are still to come; the next batches must not disturb them.
    enqueued = list(copies._queue)
    assert len(enqueued) == fails_at
    targets = [action.__closure__[1].cell_contents for action in enqueued]
    for value in range(4):
        staged.send(torch.full((300,), float(value)))
    staged.close()
    for target in targets:
        assert torch.equal(target, torch.full((100,), 7.0))


def test_a_dropped_batch_leaves_its_slab_guarded() -> None:
    copies = FakeCopies()
    staged = Staged(copies)
    for value in range(5):
        staged.send(torch.full((100,), float(value)))
    kept = staged.receive(staged.send(torch.full((100,), 9.0)))
    assert torch.equal(copies.compute(kept), torch.full((100,), 9.0))
    staged.close()
