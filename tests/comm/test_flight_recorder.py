"""The flight record of ranks that share no memory: true on all, also of ranks that hang or died."""

from __future__ import annotations

import gc
import json
import os
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from native_nccl import CPU, NativeCommunicator, joined, soon

from pyparallel import _native
from pyparallel.comm import NcclCommunicator, _flight_recorder, flight
from pyparallel.comm._flight_recorder import FlightRecorder
from pyparallel.errors import CollectiveTimeoutError, NcclError, PeerFailedError, PeerLostError
from ranks import Job, meet, run_ranks, tell_test

SPLIT_TEXT = (
    "rank 0 waits for rank 1 in all_reduce() #2; rank 1 is elsewhere, its last call was "
    "barrier() #1; rank 2 waits for rank 1 in all_reduce() #2"
)


def native(communicator: NcclCommunicator) -> NativeCommunicator:
    found = communicator._native
    assert isinstance(found, NativeCommunicator)
    return found


def one_does_not_come() -> tuple[NcclCommunicator, Any]:
    """All have a barrier behind them; rank 1 never calls the all_reduce."""
    _flight_recorder._ANSWER_SECONDS = 20  # on a busy machine, too
    communicator = joined()
    work = communicator.barrier()
    native(communicator).works[0].completed = True
    if communicator.rank != 1:
        work = communicator.all_reduce(torch.ones(9))
    meet("called")
    return communicator, work


def record_of_all() -> dict[str, Any]:
    communicator, _ = one_does_not_come()
    record = communicator.flight_record()
    meet("recorded")
    communicator.close()
    assert communicator.flight_record()["ranks"][communicator.rank]["operations"]
    return record


def test_every_record_names_the_rank_that_does_not_come() -> None:
    for rank, record in enumerate(run_ranks(3, record_of_all)):
        assert (record["rank"], record["world_size"]) == (rank, 3)
        assert record["waiting"] == SPLIT_TEXT
        assert [[wait["rank"] for wait in entry["waits"]] for entry in record["ranks"]] == [
            [1], [], [1],
        ]  # fmt: skip
        assert len({entry["process"] for entry in record["ranks"]}) == 3
        for other, entry in enumerate(record["ranks"]):
            assert (entry["rank"], entry["left"], entry["failure"]) == (other, False, None)
            texts = [operation["operation"] for operation in entry["operations"]]
            assert texts == ["barrier() #1", "all_reduce() #2"][: 1 if other == 1 else 2]


def miss_the_deadline(directory: str) -> tuple[str, Any]:
    communicator, work = one_does_not_come()
    found: BaseException | None = None
    if communicator.rank == 0:
        native(communicator).error = CollectiveTimeoutError("rank 0 waited 2000 ms")
        with pytest.raises(CollectiveTimeoutError) as caught:
            work.wait()
        found = caught.value
    else:
        assert soon(lambda: native(communicator).error is not None)
        found = native(communicator).error
    assert soon(lambda: complete(Path(directory), communicator.rank))
    meet("written")
    return str(found), found


def complete(directory: Path, rank: int) -> bool:
    files = list(directory.glob(f"flight-rank{rank}-*.json"))
    entries = json.loads(files[0].read_text())["ranks"] if files else [{"process": None}]
    return all(entry["process"] is not None for entry in entries)


def test_a_deadline_names_who_waits_on_all_ranks_and_leaves_a_file_of_each(tmp_path: Path) -> None:
    environment = {flight.DIRECTORY_VARIABLE: str(tmp_path)}
    results = run_ranks(3, miss_the_deadline, str(tmp_path), environment=environment)
    assert results[0][0] == f"rank 0 waited 2000 ms\n{SPLIT_TEXT}"
    for text, error in results[1:]:
        assert isinstance(error, PeerFailedError)
        assert SPLIT_TEXT in text
    files = sorted(tmp_path.iterdir())
    assert [file.name.split("-")[1] for file in files] == ["rank0", "rank1", "rank2"]
    for file in files:
        content = json.loads(file.read_text())
        assert "rank 0 waited 2000 ms" in content["error"]
        assert content["waiting"] == SPLIT_TEXT


def lose_one(directory: str) -> tuple[Any, int, dict[str, Any]]:
    communicator, work = one_does_not_come()
    tell_test("waiting")
    _flight_recorder._ANSWER_SECONDS = 1
    soon(lambda: work.exception() is not None)
    failed = time.monotonic_ns()
    record = communicator.flight_record()
    assert soon(lambda: len(list(Path(directory).iterdir())) == 2)
    meet_survivors(communicator)
    return work.exception(), failed, record


def meet_survivors(communicator: NcclCommunicator) -> None:
    store = communicator._members.store
    store.add("survived", 1)
    assert soon(lambda: store.add("survived", 0) == 2)


def test_a_killed_rank_is_in_the_records_of_the_others_at_once(tmp_path: Path) -> None:
    environment = {flight.DIRECTORY_VARIABLE: str(tmp_path)}
    with Job(3, lose_one, str(tmp_path), environment=environment) as job:
        for rank in range(3):
            job.receive(rank)
        killed = job.kill(1)
        outcomes = job.outcomes()
    for rank in (0, 2):
        error, failed, record = outcomes[rank].value
        assert isinstance(error, PeerLostError)
        assert failed - killed < 2_000_000_000
        assert "rank 1 does not answer" in record["waiting"]
        assert f"rank {rank} waits for rank 1" in record["waiting"]
        assert record["ranks"][1]["process"] is None


def wait_for_a_message() -> dict[str, Any]:
    communicator = joined()
    _flight_recorder._ANSWER_SECONDS = 20
    os.environ["TEST_LANES_WAIT"] = "1"  # the other rank never comes to this lane
    tensor = torch.ones(3)
    kept = weakref.ref(tensor)
    message = communicator.recv(tensor, 1 - communicator.rank)
    meet("called")
    record = communicator.flight_record()
    meet("recorded")
    for lane in communicator._lanes.values():
        lane.fail(ValueError("over"))
    del tensor, message
    gc.collect()
    assert kept() is None
    return record


def test_messages_that_were_never_issued_are_in_the_record() -> None:
    for record in run_ranks(2, wait_for_a_message):
        assert record["waiting"].startswith("rank 0 waits for rank 1 in recv(...); rank 1 waits")
        assert record["waiting"].endswith("in a circle: 0 -> 1 -> 0")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> NcclCommunicator:
    monkeypatch.setattr(_native.core, "NcclCommunicator", NativeCommunicator, raising=False)
    return NcclCommunicator(
        dist.HashStore(), rank=0, world_size=1, device=CPU, timeout_seconds=5
    )  # fmt: skip


def test_no_tensor_is_kept_alive(alone: NcclCommunicator) -> None:
    tensor = torch.ones(4)
    kept = weakref.ref(tensor)
    alone.all_gather(torch.empty(4), tensor).wait()
    del tensor
    assert kept() is None
    (operation,) = alone.flight_record()["ranks"][0]["operations"]
    assert operation["operation"] == "all_gather() #1"
    alone.close()


def test_what_could_not_be_issued_has_failed(alone: NcclCommunicator) -> None:
    native(alone).error = NcclError("unhandled system error", 2)
    with pytest.raises(NcclError):
        alone.all_reduce(torch.ones(2), algorithm="ring")
    (entry,) = alone.flight_record()["ranks"]
    assert entry["failure"] == "unhandled system error"
    assert [(one["kind"], one["state"]) for one in entry["operations"]] == [
        ("all_reduce", "failed")
    ]
    alone.close()


class MuteStore:
    """The host behind it is cut off."""

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any) -> Any:
            time.sleep(60)
            raise RuntimeError("Connection timed out")

        return call


def test_a_mute_store_leaves_this_ranks_own_record(tmp_path: Path) -> None:
    recorder = FlightRecorder(dist.HashStore(), 0, 2)
    recorder._exchange._store = MuteStore()  # type: ignore[assignment]
    recorder.log.call("barrier")
    error = CollectiveTimeoutError("rank 0 waited 1 s")
    before = time.monotonic()
    recorder.failed(error)
    recorder.explain(error)
    assert time.monotonic() - before < 30
    text = "rank 0 waits for rank 1 in barrier(...) #1; rank 1 does not answer"
    assert str(error) == f"rank 0 waited 1 s\n{text}"
    recorder.explain(error)
    assert str(error).count("does not answer") == 1
