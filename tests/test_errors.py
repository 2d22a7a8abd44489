"""Errors carry their details, also through pickle, as launchers and test harnesses send them."""

import pickle

import pytest

from pyparallel import errors

ALL = [
    errors.PeerLostError("rank 2 died", 2),
    errors.PeerFailedError("rank 2 failed", 2, "all_reduce", "ValueError: x"),
    errors.CollectiveMismatchError("ranks disagree"),
    errors.CollectiveTimeoutError("rank 1 did not come"),
    errors.OutOfMemoryError("out of memory", 10, 5),
    errors.CudaError("launch failed", 700),
    errors.NcclError("no libnccl", -1),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_errors_survive_pickle(error: errors.PyparallelError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert isinstance(copy, RuntimeError)
