"""DeepSpeed as a peer, played by a stand-in: who builds first, what is cleaned up, what is said."""

import importlib.util
import os
import sys
import types
from types import SimpleNamespace

import pytest
import torch

from benchmarks import deepspeed_peer


class Ranks:
    """This rank beside another one that has, or has not, failed."""

    world_size = 2

    def __init__(self, rank, log, other_fails=False):
        self.context = SimpleNamespace(rank=rank)
        self.log = log
        self.other_fails = other_fails

    def slowest(self, seconds):
        self.log.append("vote")
        return [max(*seconds, float(self.other_fails))]

    def barrier(self):
        self.log.append("barrier")


class Builder:
    """Of DeepSpeed; its op builds unless told otherwise."""

    log: list[str]
    level = 2
    error = None

    def load(self, verbose):
        self.log.append("load")
        if self.error is not None:
            raise self.error
        return SimpleNamespace(
            vector_kernel_level=lambda: self.level,
            initialize=lambda size, rank: self.log.append(f"initialize {size} {rank}"),
        )


@pytest.fixture
def log(monkeypatch, tmp_path):
    """What DeepSpeed and the ranks do, in order."""
    monkeypatch.setattr(Builder, "log", [], raising=False)
    for name in ("deepspeed", "deepspeed.ops", "deepspeed.ops.op_builder"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        module.ShareMemCommBuilder = Builder
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(deepspeed_peer, "SEGMENTS", tmp_path)
    monkeypatch.setattr(deepspeed_peer, "version", lambda name: "1.2")
    for name, value in {"LOCAL_SIZE": "", "MASTER_ADDR": "here", "MASTER_PORT": "99"}.items():
        monkeypatch.setenv(name, value)
    return Builder.log


@pytest.mark.parametrize(
    ("rank", "loading"), [(0, ["load", "vote", "vote"]), (1, ["vote", "load", "vote"])]
)
def test_the_first_rank_builds_what_the_others_load_and_no_name_stays(rank, loading, log, tmp_path):
    names = [f"deepspeed_allreduce_buffer_{os.getuid()}_here_99_{other}" for other in (0, 1)]
    for name in names:
        (tmp_path / name).write_text("")
    way = deepspeed_peer.way(Ranks(rank, log), torch.float32)
    assert way.name == "DeepSpeed 1.2"
    assert log == [*loading, "load", f"initialize 2 {rank}", "barrier"]
    assert os.environ["LOCAL_SIZE"] == "2"
    assert [path.name for path in tmp_path.iterdir()] == [names[1 - rank]]


def test_an_op_that_does_not_build_is_said(log, monkeypatch):
    monkeypatch.setattr(Builder, "error", RuntimeError("no compiler\nand a trace"))
    said = deepspeed_peer.way(Ranks(0, log), torch.float32)
    assert said == "DeepSpeed's op does not build: no compiler"


def test_an_op_that_another_rank_cannot_load_is_not_used(log):
    said = deepspeed_peer.way(Ranks(0, log, other_fails=True), torch.float32)
    assert "another rank" in said
    assert "barrier" not in log


@pytest.mark.parametrize(
    ("level", "dtype", "usable"),
    [
        (2, torch.bfloat16, True),
        (1, torch.bfloat16, False),
        (1, torch.float32, True),
        (0, torch.float32, False),
    ],
)
def test_a_kernel_that_this_cpu_has_not_is_not_called(level, dtype, usable, log, monkeypatch):
    monkeypatch.setattr(Builder, "level", level)
    found = deepspeed_peer.way(Ranks(0, log), dtype)
    assert (not isinstance(found, str)) == usable
    if not usable:
        assert found == "DeepSpeed's op has no kernel for this CPU"


def test_without_deepspeed_that_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    log = []
    assert deepspeed_peer.way(Ranks(1, log), torch.float32) == "DeepSpeed not installed"
    assert log == ["vote"]
