"""Prefetcher: what arrives is what a plain loop gives, whatever the stages, limits and errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset

import pyparallel
from fake_copies import FakeCopies
from leftovers import threads_left
from pyparallel.data import Prefetcher, Staged
from trees import assert_equal, batches


class FaultError(Exception):
    """Planted by a test."""


class Loader:
    """Gives batches, and raises in place of one."""

    def __init__(self, given_: list, fails_at: int | None) -> None:
        self.given = given_
        self.fails_at = fails_at

    def __iter__(self):
        for number, batch in enumerate(self.given):
            if number == self.fails_at:
                raise FaultError(number)
            yield batch


def plain_loop(loader: Loader, function, stop: int) -> tuple[list, str]:
    """What a plain loop sees until it stops, and how it ends."""
    seen = []
    try:
        for batch in loader:
            seen.append(function(batch))
            if len(seen) == stop:
                return seen, "stopped"
    except FaultError as error:
        return seen, f"error {error}"
    return seen, "end"


@given(
    given_=st.lists(batches, max_size=7),
    depth=st.integers(1, 5),
    most_bytes=st.none() | st.integers(1, 200),
    workers=st.integers(0, 3),
    loader_fails=st.none() | st.integers(0, 7),
    function_fails=st.none() | st.integers(0, 7),
    stop=st.integers(1, 9),
    staged=st.booleans(),
)
@settings(max_examples=60)
def test_any_loop_sees_what_a_plain_one_does(
    given_, depth, most_bytes, workers, loader_fails, function_fails, stop, staged
) -> None:
    numbers = {id(batch): number for number, batch in enumerate(given_)}

    def function(batch):
        if numbers[id(batch)] == function_fails:
            raise FaultError(f"of batch {function_fails}")
        return [batch, 1]

    copies = FakeCopies()
    prefetcher = Prefetcher(
        Loader(given_, loader_fails),
        depth=depth,
        bytes=most_bytes,
        preprocess=function if workers else (),
        workers=min(max(workers, 1), depth),
        transport=Staged(copies) if staged else None,
    )
    loader = Loader(given_, loader_fails)
    expected, end = plain_loop(loader, function if workers else lambda batch: batch, stop)
    got, got_end = [], "end"
    try:
        for batch in prefetcher:
            got.append(copies.compute(batch) if staged else batch)
            if len(got) == stop:
                got_end = "stopped"
                break
    except FaultError as error:
        got_end = f"error {error}"
    assert_equal(got, expected)
    assert got_end == end
    assert threads_left() == []
    assert prefetcher.report().batches == len(got)
    prefetcher.close()
    assert copies.live_bytes == 0


def test_on_the_cpu_the_very_objects_come_through() -> None:
    given_ = [{"x": torch.ones(3)}, np.ones(2), "text", None, object()]
    for one, other in zip(given_, Prefetcher(given_, "cpu"), strict=True):
        assert one is other


def test_functions_are_applied_in_turn() -> None:
    prefetcher = Prefetcher([1, 2], preprocess=[lambda value: value + 1, lambda value: value * 10])
    assert list(prefetcher) == [20, 30]


@pytest.mark.parametrize("loader", [[], (), iter([]), torch.empty(0, 3), range(0)], ids=repr)
def test_an_empty_loader_gives_nothing(loader) -> None:
    assert list(Prefetcher(loader)) == []


class Indexed:
    """The old protocol of sequences."""

    def __getitem__(self, index: int) -> int:
        if index >= 3:
            raise IndexError
        return index


def test_whatever_iter_takes_is_a_loader() -> None:
    assert list(Prefetcher(Indexed())) == [0, 1, 2]
    assert list(Prefetcher({"a": 1})) == ["a"]
    assert [int(row) for row in Prefetcher(torch.arange(3))] == [0, 1, 2]


def test_every_pass_begins_anew_and_may_differ(seed) -> None:
    loader = DataLoader(torch.arange(100), batch_size=10, shuffle=True)
    prefetcher = Prefetcher(loader)
    for _ in range(2):
        torch.manual_seed(seed)
        expected = [batch.tolist() for _ in range(3) for batch in loader]
        torch.manual_seed(seed)
        got = [batch.tolist() for _ in range(3) for batch in prefetcher]
        assert got == expected
        assert got[:10] != got[10:20]


class Squares(Dataset):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        if index == 17:
            raise FaultError("of a worker")
        return index * index


class Stream(IterableDataset):
    def __iter__(self):
        return map(torch.tensor, itertools.count())


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_a_torch_loader_with_processes_of_its_own_keeps_order_and_errors() -> None:
    loader = DataLoader(Squares(), batch_size=4, num_workers=2, pin_memory=True)
    iterator = iter(Prefetcher(loader))
    assert [next(iterator).tolist()[0] for _ in range(4)] == [0, 16, 64, 144]
    with pytest.raises(FaultError, match="of a worker"):
        next(iterator)
    for batch in Prefetcher(DataLoader(Stream(), batch_size=3, num_workers=1)):
        assert batch.tolist() == [0, 1, 2]
        break


def test_a_generator_goes_on_only_if_nothing_is_missing() -> None:
    prefetcher = Prefetcher(itertools.count())
    for value in prefetcher:
        if value == 2:
            break
    with pytest.raises(ValueError, match=r"may have read more than it delivered.*iter\(prefetch"):
        iter(prefetcher)
    whole = Prefetcher(iter(range(3)))
    assert list(whole) == [0, 1, 2]
    assert list(whole) == [], "as a plain loop over it"


def test_the_length_is_the_loaders() -> None:
    assert len(Prefetcher(range(7))) == 7
    with pytest.raises(TypeError, match="len"):
        len(Prefetcher(itertools.count()))


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({"loader": 5}, TypeError, "a int, which is no iterable"),
        ({"preprocess": "no"}, TypeError, "'n' is no function"),
        ({"preprocess": [str, 3]}, TypeError, "3 is no function"),
        ({"depth": 0}, ValueError, "depth: 0 batches in flight; at least 1"),
        ({"workers": 0}, ValueError, "0 threads for depth=4"),
        ({"workers": 5}, ValueError, "5 threads for depth=4 batches; 1 to 4 have work"),
        ({"bytes": 0}, ValueError, "0 is no size"),
        ({"device": "meta"}, ValueError, "meta is neither cpu nor cuda"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_value(arguments, kind, sentence) -> None:
    with pytest.raises(kind, match=sentence):
        Prefetcher(**{"loader": [], **arguments})


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        Prefetcher([], "cuda:1")


def test_the_default_device_is_the_contexts_or_the_cpu(monkeypatch) -> None:
    assert Prefetcher([]).device == torch.device("cpu")
    with pyparallel.init(device="cpu") as context:
        assert Prefetcher([]).device is context.device


def test_what_is_closed_stays_closed() -> None:
    copies = FakeCopies()
    with Prefetcher(range(3), transport=Staged(copies)) as prefetcher:
        assert list(prefetcher) == [0, 1, 2]
    prefetcher.close()
    with pytest.raises(ValueError, match="this Prefetcher is closed"):
        iter(prefetcher)
    assert prefetcher.report().batches == 3


def test_the_staging_memory_goes_with_the_last_iteration() -> None:
    copies = FakeCopies()
    iterator = iter(Prefetcher([torch.ones(5)] * 3, transport=Staged(copies)))
    for _ in range(3):
        assert torch.equal(copies.compute(next(iterator)), torch.ones(5))
    assert copies.live_bytes > 0
    del iterator
    assert copies.live_bytes == 0


def test_the_report_is_of_the_loop() -> None:
    prefetcher = Prefetcher([torch.ones(1000)] * 5, preprocess=torch.clone)
    assert prefetcher.report().verdict == "not measured"
    list(prefetcher)
    report = prefetcher.report()
    assert report.batches == 5
    assert {name: (one.batches, one.num_bytes) for name, one in report.stages.items()} == {
        "read": (5, 20_000),
        "preprocess": (5, 20_000),
    }
    assert report.loop_seconds >= report.wait_seconds > 0
    assert 0 <= report.min_queue <= report.mean_queue <= 4
