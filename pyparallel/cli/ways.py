"""The ways to run a collective: through our communicator, or torch.distributed with a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from pyparallel.cli.collectives import ROOT, Case
from pyparallel.cli.job import ProcessRanks
from pyparallel.cli.timer import Contestant
from pyparallel.comm import Communicator
from pyparallel.comm.communicator import Algorithm

Run = Callable[[], object]
_REDUCE_OPS = {
    "sum": dist.ReduceOp.SUM,
    "mean": dist.ReduceOp.AVG,
    "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN,
    "product": dist.ReduceOp.PRODUCT,
}
# torch renamed them and warns of the old names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)


@dataclass(frozen=True)
class Way:
    """A way to run any case.

    Attributes:
        name: of the contestant.
        bind: gives what runs a case on a send and a receive buffer.
        shared: whether the buffers are of communicator.empty.
        is_peer: whether what it cannot do is left out; what ours cannot do is an error.
    """

    name: str
    bind: Callable[[ProcessRanks, Case, Tensor, Tensor], Run]
    shared: bool = False
    is_peer: bool = False


@dataclass(frozen=True)
class Entry:
    """A case that is ready to run one way.

    Attributes:
        contestant: its run, before each of which every rank rewrites its buffers, as a training
            step would: otherwise they would stay where the last run left them, in some cache.
        verify: runs it on random integers; raises AssertionError if the result is not exact.
    """

    contestant: Contestant
    verify: Run


def enter(way: Way, case: Case, ranks: ProcessRanks, *, seed: int) -> Entry:
    """Allocates the buffers of a case for one of the ways."""
    context = ranks.context

    def allocate(numel: int) -> Tensor:
        if way.shared:
            return context.communicator.empty(numel, dtype=case.dtype)
        return torch.zeros(numel, dtype=case.dtype, device=context.device)

    send = allocate(case.send_numel)
    receive = send if case.collective.in_place else allocate(case.receive_numel)
    run = way.bind(ranks, case, send, receive)

    def rewrite() -> None:
        for buffer in {id(send): send, id(receive): receive}.values():
            buffer.fill_(context.rank + 1)

    return Entry(
        Contestant(way.name, run, rewrite),
        partial(case.verify, way.name, run, send, receive, rank=context.rank, seed=seed),
    )


def our_way(name: str, *, shared: bool = False, algorithm: Algorithm = "auto") -> Way:
    """Through the context's communicator."""

    def bind(ranks: ProcessRanks, case: Case, send: Tensor, receive: Tensor) -> Run:
        communicator = ranks.context.communicator
        return _communicator_runs(communicator, case, send, receive, algorithm)[
            case.collective.name
        ]

    return Way(name, bind, shared=shared)


def torch_way(name: str, backend: str, *, shared: bool = False) -> Way:
    """Through torch.distributed with the process group of one backend."""

    def bind(ranks: ProcessRanks, case: Case, send: Tensor, receive: Tensor) -> Run:
        runs = _group_runs(ranks.groups[backend], case, send, receive, rank=ranks.context.rank)
        run = runs[case.collective.name]
        if case.op != "mean" or not case.collective.combines or backend != "gloo":
            return run

        def mean() -> None:  # Gloo has none
            run()
            receive.div_(case.world_size)

        return mean

    return Way(name, bind, shared=shared, is_peer=backend != "pyparallel")


def _communicator_runs(
    communicator: Communicator, case: Case, send: Tensor, receive: Tensor, algorithm: Algorithm
) -> dict[str, Run]:
    rank, op = communicator.rank, case.op
    at_root = rank == ROOT
    following, previous = (rank + 1) % case.world_size, (rank - 1) % case.world_size

    def send_recv() -> None:
        received = communicator.recv(receive, previous)
        communicator.send(send, following).wait()
        received.wait()

    return {
        "all_reduce": lambda: communicator.all_reduce(receive, op, algorithm=algorithm).wait(),
        "reduce_scatter": lambda: communicator.reduce_scatter(
            receive, send, op, algorithm=algorithm
        ).wait(),
        "all_gather": lambda: communicator.all_gather(receive, send).wait(),
        "broadcast": lambda: communicator.broadcast(receive, ROOT).wait(),
        "reduce": lambda: communicator.reduce(receive, ROOT, op).wait(),
        "gather": lambda: communicator.gather(receive if at_root else None, send, ROOT).wait(),
        "scatter": lambda: communicator.scatter(receive, send if at_root else None, ROOT).wait(),
        "all_to_all": lambda: communicator.all_to_all(receive, send).wait(),
        "send_recv": send_recv,
    }


def _group_runs(
    group: dist.ProcessGroup, case: Case, send: Tensor, receive: Tensor, *, rank: int
) -> dict[str, Run]:
    ranks, at_root = case.world_size, rank == ROOT
    summed = case.op == "mean" and dist.get_backend(group) == "gloo"
    op = dist.ReduceOp.SUM if summed else _REDUCE_OPS[case.op]

    def parts(whole: Tensor) -> list[Tensor] | None:
        return list(whole.chunk(ranks)) if at_root and whole.numel() == case.numel else None

    received_parts, sent_parts = parts(receive), parts(send)

    def send_recv() -> None:
        operations = [
            dist.P2POp(dist.irecv, receive, (rank - 1) % ranks, group),
            dist.P2POp(dist.isend, send, (rank + 1) % ranks, group),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    return {
        "all_reduce": lambda: dist.all_reduce(receive, op, group=group),
        "reduce_scatter": lambda: _reduce_scatter(receive, send, op, group=group),
        "all_gather": lambda: _all_gather(receive, send, group=group),
        "broadcast": lambda: dist.broadcast(receive, ROOT, group=group),
        "reduce": lambda: dist.reduce(receive, ROOT, op, group=group),
        "gather": lambda: dist.gather(send, received_parts, ROOT, group=group),
        "scatter": lambda: dist.scatter(receive, sent_parts, ROOT, group=group),
        "all_to_all": lambda: dist.all_to_all_single(receive, send, group=group),
        "send_recv": send_recv,
    }
