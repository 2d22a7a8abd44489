"""Messages between ranks of one host and of several: order, tags, any source, any size."""

from __future__ import annotations

import random

import pytest
import torch

import pyparallel
from host_inputs import draw, hosts
from pyparallel.errors import CollectiveMismatchError, PeerFailedError
from ranks import errors_of_ranks, run_ranks


def everybody_to_everybody(seed: int) -> None:
    """All receives and sends are posted at once, in another order on every rank."""
    communicator = pyparallel.init().communicator
    rank, world = communicator.rank, communicator.world_size
    choose = random.Random(seed + rank)
    counts = [0, 1, 17, 50_000]
    pairs = [(peer, tag) for peer in range(world) if peer != rank for tag in range(3)]
    works, expected = [], []
    choose.shuffle(pairs)
    for peer, tag in pairs:
        for number, count in enumerate(counts):
            tensor = torch.zeros(count)
            works.append(communicator.recv(tensor, peer, tag=tag))
            identity = hash((peer, rank, tag, number)) % 100_000
            expected.append((tensor, draw(identity, peer, count, torch.float32)))
    choose.shuffle(pairs)
    for peer, tag in pairs:
        for number, count in enumerate(counts):
            identity = hash((rank, peer, tag, number)) % 100_000
            works.append(
                communicator.send(draw(identity, rank, count, torch.float32), peer, tag=tag)
            )
    communicator.barrier().wait()  # collectives may run in between
    choose.shuffle(works)
    for work in works:
        work.wait()
        assert work.is_completed()
    for tensor, wanted in expected:
        assert torch.equal(tensor, wanted)


@pytest.mark.parametrize("layout", ["aab", "abba"])
def test_messages_of_all_pairs_and_tags_arrive_in_their_order(layout: str, seed: int) -> None:
    run_ranks(len(layout), everybody_to_everybody, seed, environment=hosts(layout))


def from_any() -> None:
    """Rank 0 takes what comes first, from both hosts; then the rest by its source."""
    communicator = pyparallel.init().communicator
    rank, world = communicator.rank, communicator.world_size
    rounds = 8
    if rank != 0:
        for number in range(rounds + 1):
            communicator.send(torch.full((1000,), 100.0 * rank + number), 0, tag=5).wait()
        return
    next_number = dict.fromkeys(range(1, world), 0)
    tensor = torch.zeros(1000)
    for turn in range(rounds * (world - 1)):
        known = turn % 3 == 2 and min(next_number, key=lambda source: next_number[source])
        work = communicator.recv(tensor, known or None, tag=5)
        work.wait()
        source = known or work.source
        assert torch.equal(tensor, torch.full((1000,), 100.0 * source + next_number[source]))
        next_number[source] += 1
    assert sum(next_number.values()) == rounds * (world - 1)
    for source, number in next_number.items():
        for later in range(number, rounds + 1):
            communicator.recv(tensor, source, tag=5).wait()
            assert tensor[0].item() == 100.0 * source + later


@pytest.mark.parametrize("layout", ["abc", "aab", "abab"])
def test_a_message_from_any_rank_of_any_host(layout: str) -> None:
    run_ranks(len(layout), from_any, environment=hosts(layout))


def sizes_differ() -> None:
    communicator = pyparallel.init().communicator
    if communicator.rank == 0:
        communicator.send(torch.ones(11), 1, tag=3).wait()
    else:
        communicator.recv(torch.ones(10), 0, tag=3).wait()


def test_a_message_of_another_size_is_an_error_on_both_sides() -> None:
    sender, receiver = errors_of_ranks(2, sizes_differ, environment=hosts("ab"))
    assert isinstance(receiver, CollectiveMismatchError)
    for error in (sender, receiver):
        assert "rank 0 called send(11 x float32, tag 3)" in str(error)
        assert "rank 1 called recv(10 x float32, tag 3)" in str(error)
    assert isinstance(sender, PeerFailedError)
    assert sender.rank == 1


def bad_arguments() -> None:
    communicator = pyparallel.init().communicator
    other = 1 - communicator.rank
    with pytest.raises(ValueError, match=r"tag 1073741823 is not in \[0, 2\^30 - 1\)"):
        communicator.send(torch.ones(1), other, tag=(1 << 30) - 1)
    with pytest.raises(ValueError, match="this rank itself"):
        communicator.recv(torch.ones(1), communicator.rank)
    with pytest.raises(ValueError, match="not contiguous"):
        communicator.send(torch.ones(4, 4).t(), other)
    largest = (1 << 30) - 2
    tensor = torch.full((3,), float(communicator.rank))
    if communicator.rank == 0:
        communicator.send(tensor, 1, tag=largest).wait()
    else:
        communicator.recv(tensor, 0, tag=largest).wait()
        assert tensor.tolist() == [0.0] * 3


def test_what_cannot_be_sent_is_refused() -> None:
    run_ranks(2, bad_arguments, environment=hosts("ab"))


def take_a_receive_back() -> None:
    """On one host: only a receive that no message has come for."""
    communicator = pyparallel.init().communicator
    if communicator.rank == 1:
        communicator.barrier().wait()
        communicator.send(torch.ones(3), 0).wait()
        communicator.send(torch.full((3,), 2.0), 0).wait()
        return
    untouched, taken = torch.zeros(3), torch.zeros(3)
    withdrawn = communicator.recv(untouched, None)
    assert withdrawn.withdraw()
    assert withdrawn.is_completed()
    assert not withdrawn.withdraw()
    communicator.barrier().wait()
    work = communicator.recv(taken, None)
    work.wait()
    assert not work.withdraw()
    assert taken.tolist() == [1.0] * 3, "the first message is not lost"
    communicator.recv(taken, 1).wait()
    assert (untouched.tolist(), taken.tolist()) == ([0.0] * 3, [2.0] * 3)


def test_a_receive_is_taken_back_before_its_message_comes_and_not_after() -> None:
    run_ranks(2, take_a_receive_back)
