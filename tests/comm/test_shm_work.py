"""Works in shared memory: whoever only asks whether one is completed sees to its progress."""

from __future__ import annotations

import time

import torch

import pyparallel
from ranks import run_ranks


def asked_only() -> None:
    c = pyparallel.init().communicator
    for numel in (1, 20_000, 500_000):
        for background in (True, False):
            tensor = torch.ones(numel)
            work = c.all_reduce(tensor, background=background)
            deadline = time.monotonic() + 30
            while not work.is_completed():
                assert time.monotonic() < deadline, (numel, background)
                time.sleep(0.001)
            assert work.exception() is None
            assert bool((tensor == c.world_size).all())
            work.wait()


def test_who_only_asks_does_not_ask_for_ever() -> None:
    run_ranks(2, asked_only)
