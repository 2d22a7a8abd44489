"""NcclCommunicator without a GPU: what it gives to the core, refuses, keeps and tells others."""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from native_nccl import CPU, NativeCommunicator, joined, soon

from pyparallel import _native
from pyparallel.comm import NcclCommunicator, Premultiplied, _nccl_library
from pyparallel.errors import NcclError, PeerFailedError, PeerLostError
from ranks import Job, meet, run_ranks, tell_test

BYTE = _native.core.DTYPES["uint8"]


@pytest.fixture
def communicator(monkeypatch: pytest.MonkeyPatch) -> Iterator[NcclCommunicator]:
    """Rank 0 of one, over a native communicator that does nothing."""
    monkeypatch.setattr(_native.core, "NcclCommunicator", NativeCommunicator, raising=False)
    communicator = NcclCommunicator(
        dist.HashStore(), rank=0, world_size=1, device=CPU, timeout_seconds=5
    )
    yield communicator
    communicator.close()


def native(communicator: NcclCommunicator) -> NativeCommunicator:
    found = communicator._native
    assert isinstance(found, NativeCommunicator)
    return found


def last_call(communicator: NcclCommunicator) -> tuple[Any, ...]:
    return native(communicator).calls[-1]


def test_reductions_reach_the_core_with_their_dtype_and_operator(
    communicator: NcclCommunicator,
) -> None:
    tensor = torch.ones(5, dtype=torch.bfloat16)
    address, code = tensor.data_ptr(), _native.core.DTYPES["bfloat16"]
    communicator.all_reduce(tensor, "mean")
    assert last_call(communicator) == ("all_reduce", address, 5, code, "mean", None, 0)
    communicator.all_reduce(tensor, Premultiplied(0.25), algorithm="nccl")
    assert last_call(communicator) == ("all_reduce", address, 5, code, "sum", 0.25, 0)
    squares = torch.zeros(2, dtype=torch.float64)
    communicator.all_reduce(tensor, algorithm="ring", squares=squares)
    expected = ("own_all_reduce", True, address, 5, code, "sum", None, squares.data_ptr(), 0)
    assert last_call(communicator) == expected
    communicator.all_reduce(tensor, "max", algorithm="direct")
    expected = ("own_all_reduce", False, address, 5, code, "max", None, 0, 0)
    assert last_call(communicator) == expected
    output = torch.zeros_like(tensor)
    communicator.reduce_scatter(output, tensor, algorithm="direct")
    out = output.data_ptr()
    expected = ("own_reduce_scatter", False, out, address, 5, code, "sum", None, 0, 0)
    assert last_call(communicator) == expected
    communicator.reduce_scatter(output, tensor, "min")
    expected = ("reduce_scatter", out, address, 5, code, "min", None, 0)
    assert last_call(communicator) == expected
    communicator.reduce(tensor, 0, "product")
    assert last_call(communicator) == ("reduce", address, 5, code, "product", None, 0, 0)


def test_what_only_moves_is_bytes_of_any_dtype(communicator: NcclCommunicator) -> None:
    tensor, output = torch.zeros(6, dtype=torch.complex64), torch.zeros(6, dtype=torch.complex64)
    here, there = tensor.data_ptr(), output.data_ptr()
    communicator.all_gather(output, tensor)
    assert last_call(communicator) == ("all_gather", there, here, 48, 0)
    communicator.broadcast(tensor)
    assert last_call(communicator) == ("broadcast", here, 48, 0, 0)
    communicator.gather(output, tensor)
    assert last_call(communicator) == ("gather", there, here, 48, 0, 0)
    communicator.scatter(output, tensor)
    assert last_call(communicator) == ("scatter", there, here, 48, 0, 0)
    communicator.all_to_all(output, tensor)
    assert last_call(communicator) == ("all_to_all", there, here, [48], [48], 0)
    communicator.all_to_all(output[:2], tensor[1:3], output_sizes=[2], input_sizes=[2])
    assert last_call(communicator) == ("all_to_all", there, here + 8, [16], [16], 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.all_reduce(torch.ones(2, 3).t()), "not contiguous"),
        (lambda c: c.all_reduce(torch.ones(2, dtype=torch.int32), "mean"), "is not an integer"),
        (lambda c: c.all_reduce(torch.ones(2), "sub"), "'sub' is none of"),
        (lambda c: c.all_reduce(torch.ones(2), algorithm="tree"), "'tree' is none of"),
        (lambda c: c.all_reduce(torch.ones(2), squares=torch.ones(2)), "needs algorithm='ring'"),
        (
            lambda c: c.all_reduce(torch.ones(2), algorithm="ring", squares=torch.ones(3)),
            "3 x torch.float32, not 2 x torch.float64",
        ),
        (
            lambda c: c.all_reduce(
                torch.ones(2), "max", algorithm="ring", squares=torch.ones(2).double()
            ),
            "squares only of sums of floating dtypes, not of max of torch.float32",
        ),
        (lambda c: c.all_reduce(torch.empty(2, device="meta")), "is on meta"),
        (lambda c: c.reduce(torch.ones(2), 1), "root 1 is not in a world of 1"),
        (lambda c: c.all_gather(torch.ones(3), torch.ones(2)), "3 elements are not 1 ranks"),
        (lambda c: c.all_gather(torch.ones(2), torch.ones(2).half()), "differ"),
        (lambda c: c.gather(None, torch.ones(2)), "needs output"),
        (lambda c: c.all_to_all(torch.ones(2), torch.ones(2), input_sizes=[3]), "sum to 3"),
        (lambda c: c.send(torch.ones(2), 1), "rank 1 is not in a world of 1"),
        (lambda c: c.send(torch.ones(2), 0), "is this rank itself"),
        (lambda c: c.recv(torch.ones(2), None), "from a named rank"),
        (lambda c: c.split(-1), "color -1 is negative"),
        (lambda c: c.empty(-1), "negative size"),
    ],
)
def test_mistakes_are_refused_with_both_values(
    communicator: NcclCommunicator, call: Callable[[NcclCommunicator], Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(communicator)
    assert native(communicator).calls == []


def test_tensors_live_until_the_stream_or_the_device_has_passed(
    communicator: NcclCommunicator,
) -> None:
    def issue() -> tuple[Any, weakref.ref[torch.Tensor]]:
        tensor = torch.ones(4)  # only read: what is written is held for another reason, too
        return communicator.all_gather(torch.empty(4), tensor), weakref.ref(tensor)

    work, waited = issue()
    assert waited() is not None
    work.wait()
    assert waited() is None  # the stream that made it comes after the operation now
    work, passed = issue()
    del work  # nobody waits
    assert passed() is not None
    for each in native(communicator).works:
        each.completed = True
    communicator.barrier()
    assert passed() is None


def test_a_write_is_seen_by_autograd(communicator: NcclCommunicator) -> None:
    tensor = torch.ones(4)
    before = tensor._version
    communicator.all_reduce(tensor).wait()
    assert tensor._version == before + 1


def test_a_build_without_cuda_says_so() -> None:
    if NcclCommunicator.is_built():
        pytest.skip("this build has CUDA")
    with pytest.raises(NcclError, match="no CUDA and therefore no NCCL"):
        NcclCommunicator(dist.HashStore(), rank=0, world_size=1, device=CPU, timeout_seconds=1)


def test_the_library_is_looked_for_beside_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "nvidia" / "nccl" / "lib" / "libnccl.so.2"
    library.parent.mkdir(parents=True)
    library.touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, name)
    assert str(library) in _nccl_library.libraries_beside_torch()
    assert _nccl_library.named_library() == ""
    monkeypatch.setenv("PYPARALLEL_NCCL_LIBRARY", "/some/libnccl.so")
    assert _nccl_library.named_library() == "/some/libnccl.so"


# ---- several ranks ----


def error_after(communicator: NcclCommunicator) -> tuple[BaseException | None, int]:
    """What a work in flight ends with, and when it was known."""
    work = communicator.all_reduce(torch.ones(3))
    tell_test("waiting")
    soon(lambda: work.exception() is not None)
    return work.exception(), time.monotonic_ns()


def wait_for_others() -> tuple[BaseException | None, int]:
    return error_after(joined())


def test_a_killed_rank_ends_the_native_communicators_of_the_others() -> None:
    with Job(3, wait_for_others) as job:
        for rank in range(3):
            job.receive(rank)
        killed = job.kill(1)
        outcomes = job.outcomes()
    for outcome in (outcomes[0], outcomes[2]):
        error, at = outcome.value
        assert isinstance(error, PeerLostError)
        assert error.rank == 1
        assert at - killed < 2_000_000_000


def fail_or_wait(how: str) -> tuple[BaseException | None, int]:
    communicator = joined()
    store = communicator._members.store
    if communicator.rank != 1:
        store.add("joined", 1)
        found = error_after(communicator)
        meet("over")
        return found
    assert soon(lambda: store.add("joined", 0) == 2)
    if how == "abort":
        native(communicator).doing_now = "broadcast(7 x float32)"
        communicator.abort("no more data")
        with pytest.raises(PeerFailedError):
            communicator.barrier()
    else:
        native(communicator).error = NcclError("unhandled system error", 2)
        with pytest.raises(NcclError):
            communicator.barrier()
    meet("over")
    return None, 0


@pytest.mark.parametrize(
    ("how", "operation", "cause"),
    [("abort", "broadcast(7 x float32)", "no more data"), ("error", "", "unhandled system error")],
)
def test_what_a_rank_failed_with_is_raised_on_the_others(
    how: str, operation: str, cause: str
) -> None:
    values = run_ranks(3, fail_or_wait, how)
    for rank in (0, 2):
        error, _ = values[rank]
        assert isinstance(error, PeerFailedError)
        assert (error.rank, error.operation, error.cause) == (1, operation, cause)


def leave_first() -> list[int]:
    communicator = joined()
    meet("joined")
    if communicator.rank == 2:
        communicator.close()
        return []
    assert soon(lambda: native(communicator).left == [2])
    return list(native(communicator).left)


def test_a_rank_that_has_left_is_known_to_the_core() -> None:
    assert run_ranks(3, leave_first) == [[2], [2], []]


def message_before_the_other_comes() -> list[Any]:
    communicator = joined()
    lanes = NativeCommunicator.instances
    os.environ["TEST_LANES_WAIT"] = "1"  # the native lane joins when it is told to
    first, second = torch.ones(3), torch.ones(4)
    if communicator.rank == 0:
        messages = [communicator.send(first, 1), communicator.send(second, 1)]
    else:
        messages = [communicator.recv(first, 0), communicator.recv(second, 0)]
    assert soon(lambda: len(lanes) == 2)
    assert not any(message.is_completed() for message in messages)
    assert lanes[1].calls == []
    communicator.barrier()  # goes ahead
    lanes[1].arrived.set()
    for message in messages:
        message.wait()
    calls = [call[:1] + call[2:] for call in lanes[1].calls]
    third = communicator.send(first, 1) if communicator.rank == 0 else None
    if third is not None:
        third.wait()
    return [lanes[1].names, lanes[1].rank, calls]


def test_messages_are_kept_until_the_other_rank_comes() -> None:
    sent, received = run_ranks(2, message_before_the_other_comes)
    assert sent == [[0, 1], 0, [("send", 12, 1, 0), ("send", 16, 1, 0)]]
    assert received == [[0, 1], 1, [("recv", 12, 0, 0), ("recv", 16, 0, 0)]]


def wait_for_a_message() -> BaseException | None:
    communicator = joined()
    os.environ["TEST_LANES_WAIT"] = "1"
    tell_test("ready")
    if communicator.rank == 1:
        time.sleep(30)
    message = communicator.recv(torch.ones(3), 1)
    try:
        message.wait()
    except Exception as error:
        return error
    return None


def test_a_killed_rank_ends_messages_that_wait_for_it() -> None:
    with Job(2, wait_for_a_message) as job:
        job.receive(0)
        job.receive(1)
        time.sleep(0.2)
        job.kill(1)
        outcomes = job.outcomes()
    assert isinstance(outcomes[0].value, PeerLostError), outcomes[0]
    assert outcomes[0].value.rank == 1
