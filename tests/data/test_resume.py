"""state_dict: the loop goes on at the batch after the one delivered last, whatever was read."""

from __future__ import annotations

import copy
import logging
import pickle
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyparallel.data import Prefetcher, resume

NUM_BATCHES = 12


class Numbers:
    """A loader with state, as torchdata's, that gives out references to it."""

    def __init__(self, number: int = NUM_BATCHES) -> None:
        self.number = number
        self.state = {"next": 0, "history": []}
        self.reads = 0

    def __iter__(self):
        first, self.state["next"] = self.state["next"], 0
        for value in range(first, self.number):
            self.state["next"] = value + 1
            self.state["history"].append(value)
            self.reads += 1
            yield value
        self.state["next"] = 0

    def state_dict(self):
        return self.state

    def load_state_dict(self, state) -> None:
        self.state = state


class Plain:
    """A loader without state."""

    def __init__(self, number: int = NUM_BATCHES) -> None:
        self.number = number
        self.reads = 0

    def __iter__(self):
        for value in range(self.number):
            self.reads += 1
            yield value


def resumed(loader, state) -> Prefetcher:
    prefetcher = Prefetcher(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prefetcher.load_state_dict(state)
    return prefetcher


@given(st.sampled_from([Numbers, Plain]), st.integers(0, NUM_BATCHES), st.integers(1, 6))
@settings(max_examples=30)
def test_stopped_and_resumed_is_one_pass(kind, stop, depth) -> None:
    first = Prefetcher(kind(), depth=depth)
    iterator = iter(first)
    delivered = [next(iterator) for _ in range(stop)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    first.close()
    assert first.state_dict() == state
    second = resumed(kind(), state)
    assert second.state_dict() == state
    assert delivered + list(second) == list(range(NUM_BATCHES))
    assert list(second) == list(range(NUM_BATCHES)), "the next pass begins at the beginning"


@given(st.integers(0, 5), st.integers(0, 5), st.integers(1, 5))
@settings(max_examples=30)
def test_the_loaders_state_is_that_of_a_plain_loop(passes, stop, depth) -> None:
    plain, prefetched = Numbers(5), Numbers(5)
    prefetcher = Prefetcher(prefetched, depth=depth)
    for _ in range(passes):
        for _ in zip(plain, prefetcher, strict=True):
            assert prefetcher.state_dict()["loader"] == plain.state_dict()
        assert prefetcher.state_dict() == {"batches": 0, "loader": plain.state_dict()}
    iterators = iter(plain), iter(prefetcher)
    for number in range(stop):
        assert next(iterators[0]) == next(iterators[1])
        assert prefetcher.state_dict() == {"batches": number + 1, "loader": plain.state_dict()}


def test_a_saved_state_does_not_change_afterwards() -> None:
    prefetcher = Prefetcher(Numbers())
    iterator = iter(prefetcher)
    next(iterator)
    state = prefetcher.state_dict()
    before = copy.deepcopy(state)
    list(iterator)
    assert state == before
    prefetcher.load_state_dict(state)
    list(prefetcher)
    assert state == before


def test_a_state_of_its_own_needs_no_skipping() -> None:
    loader = Numbers()
    assert list(resumed(loader, {"batches": 7, "loader": {"next": 7, "history": []}})) == [
        7, 8, 9, 10, 11,
    ]  # fmt: skip
    assert loader.reads == NUM_BATCHES - 7


def test_skipping_is_said_once_and_prepares_nothing(caplog) -> None:
    loader, prepared = Plain(), []
    prefetcher = Prefetcher(loader, preprocess=lambda value: prepared.append(value) or value)
    with pytest.warns(UserWarning, match=r"Plain has no state_dict.*5 batches are read again"):
        prefetcher.load_state_dict({"batches": 5, "loader": None})
    with caplog.at_level(logging.INFO, "pyparallel.data"):
        assert list(prefetcher) == [5, 6, 7, 8, 9, 10, 11]
    assert prepared == [5, 6, 7, 8, 9, 10, 11]
    assert loader.reads == NUM_BATCHES
    assert [record.message[:17] for record in caplog.records] == ["skipped 5 batches"]


def test_long_skipping_tells_how_far_it_is(monkeypatch, caplog) -> None:
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr(resume.time, "monotonic", lambda: next(now))
    resume.skip(iter(range(9)), 9, is_stopped=lambda: False)
    assert [record.message for record in caplog.records] == [
        "skipped 3 of 9 batches, about 24 s left",
        "skipped 6 of 9 batches, about 12 s left",
        "skipped 9 of 9 batches, about 0 s left",
    ]


def test_nothing_is_skipped_and_said_at_the_beginning_and_after_the_end() -> None:
    prefetcher = Prefetcher(Plain())
    assert prefetcher.state_dict() == {"batches": 0, "loader": None}
    list(prefetcher)
    state = prefetcher.state_dict()
    assert state == {"batches": 0, "loader": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prefetcher.load_state_dict(state)
    assert list(prefetcher) == list(range(NUM_BATCHES))


def test_a_loader_that_has_become_shorter_is_named() -> None:
    with pytest.raises(ValueError, match="cannot resume after batch 5: the loader ended after 3"):
        list(resumed(Plain(3), {"batches": 5, "loader": None}))


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({}, r"has 'batches' and 'loader', not \[\]"),
        ({"batches": 3}, "has 'batches' and 'loader'"),
        ({"batches": -1, "loader": None}, "'batches' is -1"),
        ({"batches": "3", "loader": None}, "'batches' is '3'"),
        ({"batches": True, "loader": None}, "'batches' is True"),
        ({"batches": 3, "loader": {"next": 3}}, "Plain has none"),
    ],
)
def test_what_is_no_state_is_refused(state, sentence) -> None:
    prefetcher = Prefetcher(Plain())
    with pytest.raises(ValueError, match=sentence):
        prefetcher.load_state_dict(state)


def test_loading_a_state_ends_the_iteration_under_way() -> None:
    prefetcher = Prefetcher(Numbers())
    iterator = iter(prefetcher)
    next(iterator)
    prefetcher.load_state_dict(prefetcher.state_dict())
    with pytest.raises(ValueError, match="a state was loaded"):
        next(iterator)
    assert next(iter(prefetcher)) == 1


def test_a_prefetcher_is_a_loader_with_state() -> None:
    def nested() -> Prefetcher:
        return Prefetcher(Prefetcher(Numbers(), depth=3), depth=2)

    first = nested()
    iterator = iter(first)
    delivered = [next(iterator) for _ in range(5)]
    second = nested()
    second.load_state_dict(first.state_dict())
    assert delivered + list(second) == list(range(NUM_BATCHES))
