"""Jobs that measure: what their ranks write comes back, and a job that fails is said."""

import sys
import textwrap

import pytest
import torch

import ranks
from pyparallel.cli import job

SCRIPT = """
    import os, sys
    rank, path = int(os.environ["RANK"]), sys.argv[sys.argv.index("--rows") + 1]
    if "fail" in sys.argv and rank == 1:
        sys.exit(3)
    if rank == 0:
        place = os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"], *sys.argv[1:2]
        open(path, "w").write(" ".join(place))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return tmp_path


def test_every_world_size_is_a_job_whose_text_comes_back(folder):
    texts = job.launch_all(["script", "x"], [1, 2], device="cpu", threads=3, folder=folder)
    assert list(texts) == ["1 3 x", "2 3 x"]


def test_a_job_that_fails_is_said(folder, capfd):
    texts = job.launch_all(["script", "fail"], [2], device="cpu", threads=1, folder=folder)
    with pytest.raises(job.UnusableError, match="2 ranks ended with exit code 1"):
        next(texts)
    assert "script" in capfd.readouterr().err


def test_more_ranks_than_gpus_are_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(job.UnusableError, match="3 ranks need 3 GPUs, but there are 2"):
        next(job.launch_all(["script"], [3], device="cuda", threads=1))


def join(backends):
    with job.joined(device="cpu", threads=1, backends=backends) as joined:
        rank = joined.context.rank
        joined.barrier()
        slowest = joined.slowest([float(rank), 5.0 - rank])
        names = [group.name() for group in joined.groups.values()]
        return joined.peer_name, list(joined.groups), names, slowest


def test_ranks_join_a_group_for_every_backend_and_agree_on_the_slowest():
    outcomes = ranks.run_ranks(2, join, ["gloo", "pyparallel"])
    expected = ("Gloo", ["gloo", "pyparallel"], ["gloo", "pyparallel"], [1.0, 5.0])
    assert outcomes == [expected] * 2
