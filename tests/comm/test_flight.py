"""The flight record: true for all ranks, names who waits for whom; one file per rank."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pyparallel
from pyparallel.comm import ShmCommunicator, flight
from pyparallel.errors import CollectiveTimeoutError, PeerLostError
from ranks import Job, meet, run_ranks, tell_test


def communicator(timeout_seconds: float = 30) -> ShmCommunicator:
    found = pyparallel.init(timeout_seconds=timeout_seconds).communicator
    assert isinstance(found, ShmCommunicator)
    return found


def recorded() -> dict[str, Any]:
    c = communicator()
    for count in range(1, 71):  # more than it remembers
        c.all_reduce(torch.ones(count, dtype=torch.float64)).wait()
    other = torch.ones(7)
    (c.send(other, 1, tag=9) if c.rank == 0 else c.recv(other, 0, tag=9)).wait()
    c.broadcast(other, 1).wait()
    pending = c.recv(other, 1 - c.rank, tag=1)
    c.barrier().wait()
    record = c.flight_record()
    c.barrier().wait()
    assert not pending.is_completed()
    return record


def test_the_last_operations_of_all_ranks_are_known_to_each() -> None:
    for rank, record in enumerate(run_ranks(2, recorded)):
        assert (record["rank"], record["world_size"], len(record["ranks"])) == (rank, 2, 2)
        for other, entry in enumerate(record["ranks"]):
            assert (entry["rank"], entry["left"], entry["failure"]) == (other, False, None)
            operations = entry["operations"]
            assert 60 <= len(operations) <= 64  # the other rank may be one or two ahead
            numbers = [operation["number"] for operation in operations]
            assert numbers == sorted(numbers)
            by_text = {operation["operation"]: operation for operation in operations}
            reduced = by_text["all_reduce(70 x float64) #70"]
            assert reduced["kind"] == "all_reduce"
            assert reduced["state"] == "completed"
            assert 0 < reduced["submitted_ns"] <= reduced["ended_ns"] <= record["taken_ns"]
            assert "broadcast(7 x float32, root 1) #71" in by_text
            message = by_text[
                f"{'recv' if other else 'send'}(7 x float32, "
                f"{'from rank 0' if other else 'to rank 1'}, tag 9)"
            ]
            assert (message["count"], message["peer"], message["tag"]) == (7, 1 - other, 9)
            waiting = by_text[f"recv(7 x float32, from rank {1 - other}, tag 1)"]
            assert waiting["state"] == "started"
            assert waiting["ended_ns"] == 0


def wait_in_a_circle() -> tuple[str, dict[str, Any]]:
    meet("started")
    c = communicator(timeout_seconds=2 if pyparallel_rank() == 0 else 4)
    with pytest.raises((CollectiveTimeoutError, PeerLostError)) as caught:
        c.recv(torch.ones(3), (c.rank + 1) % 3, tag=c.rank).wait()
    return str(caught.value), c.flight_record()


def pyparallel_rank() -> int:
    import os

    return int(os.environ["RANK"])


def test_a_deadline_names_the_circle_and_leaves_one_file_per_rank(tmp_path: Path) -> None:
    environment = {flight.DIRECTORY_VARIABLE: str(tmp_path / "records")}
    results = run_ranks(3, wait_in_a_circle, environment=environment)
    text = results[0][0]
    assert "rank 0 waits for rank 1 in recv(3 x float32, from rank 1, tag 0); rank 1 waits" in text
    assert "ranks wait for each other in a circle: 0 -> 1 -> 2 -> 0" in text
    files = sorted((tmp_path / "records").iterdir())
    assert [file.name.split("-")[1] for file in files] == ["rank0", "rank1", "rank2"]
    content = json.loads(files[0].read_text())
    assert content["error"] == text
    assert [entry["waits"][0]["rank"] for entry in content["ranks"]] == [1, 2, 0]
    assert "circle" in content["waiting"]


def silent() -> str:
    meet("started")
    c = communicator(timeout_seconds=2)
    c.barrier().wait()
    if c.rank == 1:
        tell_test("waiting elsewhere")
        time.sleep(60)
    with pytest.raises((CollectiveTimeoutError, PeerLostError)) as caught:
        c.all_reduce(torch.ones(9)).wait()
    tell_test("the deadline is over")
    return str(caught.value)


def test_who_is_elsewhere_is_named(tmp_path: Path) -> None:
    with Job(2, silent, environment={flight.DIRECTORY_VARIABLE: str(tmp_path)}) as job:
        job.receive(1)
        job.receive(0)
        job.kill(1)
        outcomes = job.outcomes()
    text = outcomes[0].value
    assert "rank 0 waits for rank 1 in all_reduce(9 x float32) #2" in text
    assert "rank 1 is elsewhere, its last call was barrier() #1" in text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_record_that_cannot_be_written_is_no_second_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    environment = {flight.DIRECTORY_VARIABLE: str(blocked / "below")}
    texts = [text for text, _ in run_ranks(3, wait_in_a_circle, environment=environment)]
    assert all("recv(3 x float32" in text for text in texts)
    assert blocked.read_text() == "in the way"


def test_writing_is_atomic_and_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "record.json"
    flight.write(path, {"a": 1})
    flight.write(path, {"b": [2]})
    assert json.loads(path.read_text()) == {"b": [2]}
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]
