"""A rank killed in the middle of any operation is named on all others within two seconds."""

from __future__ import annotations

import random
import time

import pytest
import torch

import pyparallel
from pyparallel.errors import PeerLostError
from ranks import Job, tell_test

OPERATIONS = ("all_to_all", "ring", "gather", "scatter", "reduce", "reduce_scatter ring")


def run_forever(operation: str, count: int, shared: bool, background: bool) -> None:
    c = pyparallel.init().communicator
    create = c.empty if shared else torch.zeros
    part, whole, other = create(count), create(3 * count), create(3 * count)
    sizes = {0: (1, count, 7), 1: (count, 0, 3), 2: (7, 3, count)}[c.rank]
    inputs, outputs = other[: sum(sizes)], whole[: sum(sizes)]
    is_root = c.rank == 0
    start = {
        "all_to_all": lambda: c.all_to_all(
            outputs, inputs, output_sizes=sizes, input_sizes=sizes, background=background
        ),
        "ring": lambda: c.all_reduce(whole, "max", algorithm="ring", background=background),
        "gather": lambda: c.gather(whole if is_root else None, part, background=background),
        "scatter": lambda: c.scatter(part, whole if is_root else None, background=background),
        "reduce": lambda: c.reduce(whole, 0, "max", background=background),
        "reduce_scatter ring": lambda: c.reduce_scatter(
            part, whole, "max", algorithm="ring", background=background
        ),
    }[operation]
    tell_test("ready")
    while True:
        start().wait()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_rank_killed_in_any_operation_is_named_within_two_seconds(
    operation: str, seed: int
) -> None:
    choose = random.Random(seed)
    count = choose.choice([10, 5_001, 100_000, 700_001])
    victim = choose.randrange(3)
    arguments = count, choose.random() < 0.3, choose.random() < 0.5
    with Job(3, run_forever, operation, *arguments) as job:
        for rank in range(3):
            job.receive(rank)
        time.sleep(choose.random() * 0.2)
        killed = job.kill(victim)
        outcomes = job.outcomes()
    for outcome in outcomes:
        if outcome.rank == victim:
            continue
        assert isinstance(outcome.error, PeerLostError), (arguments, outcome.error)
        assert outcome.error.rank == victim
        assert f"was in {operation.split()[0].replace('ring', 'all_reduce')}(" in str(outcome.error)
        assert outcome.ended_ns - killed < 2_000_000_000
