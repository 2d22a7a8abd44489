"""A world of one: collectives are copies, arguments are still looked at."""

import pytest
import torch

from pyparallel.comm import Premultiplied, SoloCommunicator
from pyparallel.errors import PeerFailedError


def test_operations_of_one_rank_copy_or_do_nothing() -> None:
    communicator = SoloCommunicator(torch.device("cpu"))
    tensor = torch.randn(3, 5)
    before = tensor.clone()
    for op in ("sum", "mean", "max", "min", "product"):
        communicator.all_reduce(tensor, op).wait()  # type: ignore[arg-type]
        communicator.reduce(tensor, op=op).wait()  # type: ignore[arg-type]
    communicator.broadcast(tensor).wait()
    communicator.barrier().wait()
    assert torch.equal(tensor, before)
    c = communicator
    for collective in (c.all_gather, c.reduce_scatter, c.gather, c.scatter, c.all_to_all):
        output = torch.empty(3, 5)
        work = collective(output, tensor)
        work.wait()
        assert work.is_completed()
        assert work.exception() is None
        assert 0 < work.started_ns <= work.ended_ns
        assert torch.equal(output, tensor)
    c.all_reduce(output, Premultiplied(0.5), algorithm="ring").wait()
    assert torch.equal(output, 0.5 * tensor)
    assert communicator.empty(2, 3, dtype=torch.int64).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="root 1 is not in a world of 1"):
        communicator.broadcast(tensor, 1)
    communicator.close()


def test_leaves_and_inference_tensors_are_written_as_by_many_ranks() -> None:
    c = SoloCommunicator(torch.device("cpu"))
    source = torch.randn(4)
    for collective in (c.all_gather, c.reduce_scatter, c.gather, c.scatter, c.all_to_all):
        leaf = torch.zeros(4, requires_grad=True)
        with torch.inference_mode():
            inference = torch.zeros(4)
        for output in (leaf, inference):
            collective(output, source).wait()
            assert torch.equal(output, source)
    for output in (leaf, inference):
        c.all_reduce(output, Premultiplied(0.5)).wait()
        assert torch.equal(output, 0.5 * source)
    with torch.inference_mode():
        c.all_gather(leaf, source).wait()
    assert torch.equal(leaf, source)
    assert leaf.requires_grad
    assert leaf.grad_fn is None


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
    with pytest.raises(TypeError, match=r"dtype torch\.bool"):
        c.all_reduce(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="no algorithm 'nccl', but direct, ring or auto"):
        c.all_reduce(torch.ones(3), algorithm="nccl")
    with pytest.raises(ValueError, match="'star' is none of"):
        c.reduce_scatter(torch.ones(3), torch.ones(3), algorithm="star")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank 0 is the root and needs input"):
        c.scatter(torch.ones(3), None)
    with pytest.raises(ValueError, match="rank 1 is not in a world of 1"):
        c.send(torch.ones(3), 1)
    with pytest.raises(ValueError, match="no other rank"):
        c.recv(torch.ones(3), None)
    with pytest.raises(ValueError, match=r"\[1, 2\] are not 1 sizes"):
        c.all_to_all(torch.ones(3), torch.ones(3), input_sizes=[1, 2])
    with pytest.raises(ValueError, match="negative size"):
        c.empty(-1)
    assert c.empty().shape == ()


def test_an_aborted_rank_says_so_later() -> None:
    c = SoloCommunicator(torch.device("cpu"))
    c.abort("no more data")
    with pytest.raises(PeerFailedError, match="no more data"):
        c.barrier()
