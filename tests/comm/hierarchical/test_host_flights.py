"""The flight record of several hosts: every rank's lane, and the host's shared memory."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pyparallel
from host_inputs import hosts
from pyparallel.comm import _flight_recorder, flight
from pyparallel.comm.hierarchical import HierarchicalCommunicator
from pyparallel.errors import CollectiveTimeoutError, PeerFailedError, PeerLostError
from ranks import Job, meet, run_ranks, tell_test


def communicator(timeout_seconds: float = 30) -> HierarchicalCommunicator:
    found = pyparallel.init(timeout_seconds=timeout_seconds).communicator
    assert isinstance(found, HierarchicalCommunicator)
    return found


def be_patient() -> None:
    """In a rank: so that a busy machine is no rank that does not answer."""
    _flight_recorder._ANSWER_SECONDS = 20


def one_is_late() -> list[dict[str, Any]]:
    be_patient()
    c = communicator()
    c.barrier().wait()
    works = [c.all_reduce(torch.ones(9))] if c.rank != 3 else []
    message = c.recv(torch.ones(2), 0) if c.rank == 3 else None
    meet("called")
    records = [c.flight_record()]
    meet("recorded")
    works = works or [c.all_reduce(torch.ones(9))]
    if c.rank == 0:
        works.append(c.send(torch.ones(2), 3))
    for work in works:
        work.wait()
    if message is not None:
        message.wait()
    meet("through")
    records.append(c.flight_record())
    meet("recorded again")
    return records


def test_every_record_names_the_rank_that_is_late() -> None:
    for rank, (late, through) in enumerate(run_ranks(4, one_is_late, environment=hosts("aabb"))):
        assert (late["rank"], late["world_size"]) == (rank, 4)
        waits = [[wait["rank"] for wait in entry["waits"]] for entry in late["ranks"]]
        assert waits == [[3], [3], [3], [0]]
        assert "rank 1 waits for rank 3 in all_reduce(9 x float32) #2" in late["waiting"]
        assert "rank 3 waits for rank 0 in recv(2 x float32, from rank 0, tag 0)" in late["waiting"]
        assert [len(entry["operations"]) for entry in late["ranks"]] == [3, 3, 3, 3]
        assert late["host"]["members"] == ([0, 1] if rank < 2 else [2, 3])
        assert len(late["host"]["ranks"]) == 2
        assert [entry["waits"] for entry in through["ranks"]] == [[], [], [], []]
        last = through["ranks"][rank]["operations"][-1]
        assert last["state"] == "completed"
        assert 0 < last["submitted_ns"] <= last["ended_ns"] <= through["taken_ns"]


def complete(directory: Path, rank: int) -> bool:
    files = list(directory.glob(f"flight-rank{rank}-*.json"))
    entries = json.loads(files[0].read_text())["ranks"] if files else [{"process": None}]
    return all(entry["process"] is not None for entry in entries)


def silent(directory: Path) -> str:
    meet("started")
    be_patient()
    c = communicator(timeout_seconds=2)
    c.barrier().wait()
    if c.rank == 0:
        with pytest.raises(CollectiveTimeoutError) as caught:
            c.all_reduce(torch.ones(9)).wait()
    meet("over")
    if c.rank == 1:
        with pytest.raises(PeerFailedError) as caught:  # type: ignore[assignment]
            c.barrier().wait()
    deadline = time.monotonic() + 20
    while not complete(directory, c.rank) and time.monotonic() < deadline:
        time.sleep(0.01)
    meet("written")
    return str(caught.value)


def test_a_deadline_says_who_waits_and_leaves_a_file_of_each_rank(tmp_path: Path) -> None:
    def environment(rank: int) -> dict[str, str]:
        return {**hosts("ab")(rank), flight.DIRECTORY_VARIABLE: str(tmp_path)}

    with Job(2, silent, tmp_path, environment=environment) as job:
        texts = [outcome.value for outcome in job.outcomes()]
    words = (
        "rank 0 waits for rank 1 in all_reduce(9 x float32) #2; rank 1 is elsewhere, its last "
        "call was barrier() #1"
    )
    for text in texts:
        assert words in text
    files = sorted(tmp_path.iterdir())
    assert [file.name.split("-")[1] for file in files] == ["rank0", "rank1"]
    for file in files:
        content = json.loads(file.read_text())
        assert "rank 0 waited 2 s" in content["error"]
        assert [entry["process"] is None for entry in content["ranks"]] == [False, False]


def lose_one() -> tuple[int, str]:
    c = communicator()
    c.barrier().wait()
    if c.rank == 1:
        tell_test("elsewhere")
        meet("never")
    work = c.all_reduce(torch.ones(9))
    tell_test("waiting")
    with pytest.raises(PeerLostError) as caught:
        work.wait()
    return caught.value.rank, c.flight_record()["waiting"]


def test_a_killed_rank_does_not_answer() -> None:
    with Job(3, lose_one, environment=hosts("abb")) as job:
        for rank in range(3):
            job.receive(rank)
        job.kill(1)
        outcomes = job.outcomes()
    for rank in (0, 2):
        lost, waiting = outcomes[rank].value
        assert lost == 1
        assert f"rank {rank} waits for rank 1 in all_reduce(9 x float32) #2" in waiting
        assert "rank 1 does not answer" in waiting


def close_first() -> dict[str, Any]:
    c = communicator()
    c.barrier().wait()
    c.close()
    return c.flight_record()


def test_after_closing_the_own_record_is_left() -> None:
    for rank, record in enumerate(run_ranks(3, close_first, environment=hosts("aab"))):
        operations = record["ranks"][rank]["operations"]
        assert [one["operation"] for one in operations] == ["init() #0", "barrier() #1"]
        assert record["ranks"][rank]["failure"] is None
