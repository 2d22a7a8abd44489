"""has_free_core: the launcher's word first, then the caller's; threads count."""

from __future__ import annotations

import os

import pytest
import torch

from pyparallel.comm.cores import has_free_core


def test_ranks_times_threads_are_compared_with_cores(
    monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(1)
    assert has_free_core()
    assert has_free_core(7)
    assert not has_free_core(8)
    torch.set_num_threads(2)
    assert has_free_core(3)
    assert not has_free_core(4)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not has_free_core(1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert has_free_core(100)
