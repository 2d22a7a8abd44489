"""Tensors in shared memory: any size or a clear refusal, freed when nobody holds them."""

from __future__ import annotations

import gc
import itertools
import os
from pathlib import Path

import pytest
import torch

import pyparallel
from pyparallel.errors import OutOfMemoryError
from pyparallel.memory import default_pool
from ranks import run_ranks


def shared_mappings() -> int:
    return Path("/proc/self/maps").read_text().count("/memfd:pyparallel")


def sizes_too_large() -> None:
    c = pyparallel.init().communicator
    for exponent, dtype in itertools.product(
        (45, 60, 61, 62, 63, 64, 80), (torch.float32, torch.uint8)
    ):
        for shape in ((1 << exponent,), (1 << exponent // 2, 1 << exponent - exponent // 2)):
            with pytest.raises(OutOfMemoryError) as caught:
                c.empty(*shape, dtype=dtype)
            assert caught.value.requested == dtype.itemsize << exponent
            assert 0 < caught.value.available < 1 << 45
            assert str(caught.value.requested) in str(caught.value)
            assert str(caught.value.available) in str(caught.value)
    c.barrier().wait()


def test_absurd_sizes_say_what_was_needed_and_what_is_there() -> None:
    run_ranks(2, sizes_too_large)


def shapes() -> None:
    c = pyparallel.init().communicator
    for shape in ((), (0,), (1,), (3, 0, 2), (2, 3), (1, 1, 1)):
        for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.uint8):
            tensor = c.empty(*shape, dtype=dtype)
            assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)
            assert tensor.is_contiguous()
            assert not tensor.any()
            c.all_reduce(tensor.fill_(2)).wait()
            assert bool((tensor == 2 * c.world_size).all())
    with pytest.raises(TypeError, match="bool"):
        c.empty(3, dtype=torch.bool)


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_shape_and_dtype_starts_as_zeros(world_size: int) -> None:
    run_ranks(world_size, shapes)


def given_back() -> None:
    c = pyparallel.init().communicator
    pool = default_pool("shared")
    c.all_reduce(c.empty(100_000)).wait()
    before = shared_mappings(), len(os.listdir("/proc/self/fd"))
    live = pool.statistics().live
    tensors = [c.empty(100_000) for _ in range(20)]
    views = [tensor[5:10] for tensor in tensors]
    for tensor in tensors:
        c.all_reduce(tensor.fill_(1)).wait()
    assert pool.statistics().live >= live + 20 * 400_000
    assert (shared_mappings(), len(os.listdir("/proc/self/fd"))) == before  # one segment a rank
    del tensors, tensor
    gc.collect()
    assert all(view.tolist() == [2.0] * 5 for view in views)  # a view keeps the memory
    del views
    assert pool.statistics().live == live
    held = pool.statistics().reserved
    assert pool.trim() > 0
    assert pool.statistics().reserved < held


def test_memory_goes_back_to_the_pool_with_the_last_view() -> None:
    run_ranks(2, given_back)


def reused_places() -> None:
    """A new tensor at the place of an old one is another tensor for the peers, too."""
    c = pyparallel.init().communicator
    for turn in range(60):
        tensor = c.empty(50_000 + turn % 3)
        tensor.fill_(turn)
        if (turn + c.rank) % 2:
            other = c.empty(10)  # so that the ranks' tables differ
        c.all_reduce(tensor).wait()
        assert bool((tensor == 2 * turn).all()), turn
        if turn % 5 == 0:
            kept = tensor
    assert bool((kept == 2 * 55).all())
    del other


def test_places_are_reused_without_mixing_them_up() -> None:
    run_ranks(2, reused_places)


def many() -> None:
    c = pyparallel.init().communicator
    tensors = [c.empty(1 + turn % 3) for turn in range(3000)]
    for tensor in tensors[::100]:
        c.all_reduce(tensor.fill_(1)).wait()
        assert tensor[-1].item() == 2


def test_thousands_of_tensors_live_at_once() -> None:
    run_ranks(2, many)
