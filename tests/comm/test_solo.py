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


def test_arguments_are_refused_as_by_many_ranks() -> None:
    """A script that runs alone must not fail only when it runs on two ranks."""
    c = SoloCommunicator(torch.device("cpu"))
    with pytest.raises(ValueError, match="'avg' is none of sum, mean, max, min"):
        c.all_reduce(torch.ones(3), "avg")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mean of torch.int32.*op='sum'"):
        c.all_reduce(torch.ones(3, dtype=torch.int32), "mean")
    with pytest.raises(ValueError, match="4 elements are not 1 ranks times 1"):
        c.all_gather(torch.zeros(4), torch.ones(1))
    with pytest.raises(ValueError, match="4 elements are not 1 ranks times 1"):
        c.reduce_scatter(torch.zeros(1), torch.ones(4))
    with pytest.raises(ValueError, match="'nope' is none of"):
        c.reduce_scatter(torch.zeros(4), torch.ones(4), "nope")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not contiguous"):
        c.all_reduce(torch.ones(3, 3).t())
    with pytest.raises(ValueError, match="on meta"):
        c.all_reduce(torch.ones(3, device="meta"))
    with pytest.raises(ValueError, match="negative size"):
        c.empty(-1)
    assert c.empty().shape == ()
