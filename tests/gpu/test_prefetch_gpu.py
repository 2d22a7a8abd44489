"""Prefetcher to a GPU: no batch is read before its copy, no memory is reused before its use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyparallel.data import Prefetcher, cuda

LONG = 100_000_000  # cycles, some 50 ms: copies and hosts overtake a kernel that is not waited for
NUM_BATCHES = 12


def numbers(shape=(1 << 18,), count=NUM_BATCHES, pinned=False):
    for number in range(count):
        batch = torch.full(shape, float(number))
        yield batch.pin_memory() if pinned else batch


@pytest.mark.parametrize("pinned", [False, True])
def test_every_batch_is_whole_when_the_stream_reads_it(device, pinned) -> None:
    sums = []
    for number, batch in enumerate(Prefetcher(numbers(pinned=pinned), device)):
        assert batch.device == device
        sums.append((number, (batch == number).all()))
    assert [number for number, _ in sums] == list(range(NUM_BATCHES))
    assert all(bool(right) for _, right in sums)


def test_memory_in_use_is_not_written_however_slow_the_stream_is(device) -> None:
    rights = []
    for number, batch in enumerate(Prefetcher(numbers(), device, depth=3)):
        torch.cuda._sleep(LONG)  # the host is far ahead when this batch is read
        rights.append((batch == number).all())
        del batch
    assert all(map(bool, rights))


def test_what_is_kept_stays(device) -> None:
    kept = list(Prefetcher(numbers(), device))
    assert [float(batch.mean()) for batch in kept] == list(range(NUM_BATCHES))


def test_a_stream_of_the_users_own_is_waited_for_and_kept_from_harm(device) -> None:
    stream, rights = torch.cuda.Stream(device), []
    with torch.cuda.stream(stream):
        for number, batch in enumerate(Prefetcher(numbers(), device)):
            torch.cuda._sleep(LONG // 4)
            rights.append((batch == number).all())
    stream.synchronize()
    assert all(map(bool, rights))


def test_slow_copies_do_not_let_slabs_be_overwritten(device, monkeypatch) -> None:
    copies = cuda.CudaCopies.copy

    def late(self, source):
        with torch.cuda.stream(self._stream):
            torch.cuda._sleep(LONG // 4)
        return copies(self, source)

    monkeypatch.setattr(cuda.CudaCopies, "copy", late)
    kept = list(Prefetcher(numbers(), device))
    assert all(bool((batch == number).all()) for number, batch in enumerate(kept))


def test_trees_arrive_as_on_the_cpu(device, generator) -> None:
    image = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    batch = {
        "image": image,
        "cut": torch.randn(9, 7)[:, ::2],
        "empty": torch.empty(0, 3),
        "sparse": torch.eye(4).to_sparse(),
        "parameter": nn.Parameter(torch.randn(3)),
        "there": torch.randn(5, device=device, generator=generator),
        "text": "as it is",
    }
    (got,) = Prefetcher([batch], device)
    assert got["image"].stride() == image.stride()
    assert got["text"] == "as it is"
    assert got["there"] is batch["there"]
    assert got["parameter"].requires_grad
    for name in ("image", "cut", "empty", "parameter", "there"):
        assert got[name].device == device
        assert torch.equal(got[name].cpu(), batch[name].cpu()), name
    assert torch.equal(got["sparse"].to_dense().cpu(), torch.eye(4))


def test_batches_made_on_the_gpu_by_a_function_are_waited_for(device) -> None:
    def double(batch):
        on_device = batch.to(device)
        torch.cuda._sleep(LONG // 4)
        return on_device * 2

    rights = [
        (batch == 2 * number).all()
        for number, batch in enumerate(Prefetcher(numbers(), device, preprocess=double))
    ]
    assert all(map(bool, rights))


def test_breaking_off_gives_the_memory_back(device) -> None:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(device)
    for _ in range(3):
        for number, _ in enumerate(Prefetcher(numbers(count=100), device)):
            if number == 4:
                break
    del _
    torch.cuda.synchronize()
    torch.empty(1, device=device)  # lets the allocator look at its events
    assert torch.cuda.memory_allocated(device) <= before + 512


def test_the_copies_are_measured(device) -> None:
    with Prefetcher(numbers(), device) as prefetcher:
        for _ in prefetcher:
            pass
    stages = prefetcher.report().stages
    assert set(stages) == {"read", "stage", "copy"}
    assert stages["copy"].batches == NUM_BATCHES
    assert stages["copy"].num_bytes == NUM_BATCHES * (1 << 20)
    assert stages["copy"].gigabytes_per_second > 0.1
