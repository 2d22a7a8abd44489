"""A world of one: collectives are copies, arguments are still looked at."""

import pytest
import torch

from pyparallel.comm import SoloCommunicator


def test_operations_of_one_rank_copy_or_do_nothing() -> None:
    communicator = SoloCommunicator(torch.device("cpu"))
    tensor = torch.randn(3, 5)
    before = tensor.clone()
    for op in ("sum", "mean", "max", "min"):
        communicator.all_reduce(tensor, op).wait()  # type: ignore[arg-type]
    communicator.broadcast(tensor).wait()
    communicator.barrier().wait()
    assert torch.equal(tensor, before)
    for collective in (communicator.all_gather, communicator.reduce_scatter):
        output = torch.empty(3, 5)
        work = collective(output, tensor)
        work.wait()
        assert work.is_completed()
        assert work.exception() is None
        assert torch.equal(output, tensor)
    assert communicator.empty(2, 3, dtype=torch.int64).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="root 1 is not in a world of 1"):
        communicator.broadcast(tensor, 1)
    communicator.close()
