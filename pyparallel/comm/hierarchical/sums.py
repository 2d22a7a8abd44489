"""Operations that combine: inside each host first, then between hosts, in the hosts' order.

all_reduce with the same number L of ranks on each host (rails; every link carries 1/L of the data):

              host a              host b
    rank 0  [A0 . .]  <------>  [B0 . .]  rank 3     1. reduce_scatter inside: rank l has part l
    rank 1  [. A1 .]  <------>  [. B1 .]  rank 4     2. part l is reduced between the l-th ranks
    rank 2  [. . A2]  <------>  [. . B2]  rank 5     3. all_gather inside

Hosts of unequal size: reduce to the first rank of each host, all_reduce between those, broadcast.
Sums of 16-bit floats are float32 in all stages and rounded once, by the rank that holds the part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyparallel.comm.communicator import Algorithm, Op, Premultiplied
from pyparallel.comm.hierarchical.layout import Layout

_ONE_ROUND_BYTES = 16 * 1024  # up to here whole parts are exchanged: one round instead of two


def all_reduce(layout: Layout, tensor: Tensor, op: Op, algorithm: Algorithm) -> None:
    """See Communicator.all_reduce."""
    flat = tensor.detach().view(-1)
    call = layout.announce("all_reduce", _describe(flat, op))
    wide = _accumulator(flat, op)
    stage = _stage(op)
    if not layout.hosts.equal:
        layout.inside(lambda own: own.reduce(wide, 0, stage, background=False))
        call.check()
        if layout.local == 0:
            _reduce_between(layout, "all_reduce", wide, flat, op)
        layout.inside(lambda own: own.broadcast(flat, 0, background=False))
        return
    # What does not divide by L stays with the last rank's part.
    number = layout.own.world_size
    size, last = flat.numel() // number, number - 1
    body = slice(size * number)
    rest = slice(size * number, None)
    mine = slice(layout.local * size, (layout.local + 1) * size)
    part = slice(mine.start, None) if layout.local == last else mine
    layout.inside(
        lambda own: own.reduce_scatter(
            wide[mine], wide[body], stage, algorithm=algorithm, background=False
        )
    )
    if flat[rest].numel():
        layout.inside(lambda own: own.reduce(wide[rest], last, stage, background=False))
    call.check()
    _reduce_between(layout, "all_reduce", wide[part], flat[part], op)
    layout.inside(lambda own: own.all_gather(flat[body], flat[mine], background=False))
    if flat[rest].numel():
        layout.inside(lambda own: own.broadcast(flat[rest], last, background=False))


def reduce(layout: Layout, tensor: Tensor, root: int, op: Op) -> None:
    """See Communicator.reduce: to one rank of each host, and from there to the root."""
    flat = tensor.detach().view(-1)
    call = layout.announce("reduce", f"{_describe(flat, op)}, root {root}")
    ranks = layout.hosts.representatives(root)
    mine = ranks[layout.host]
    wide = _accumulator(flat, op)
    if layout.rank == mine != root and wide is flat:
        wide = flat.clone()  # only the root's tensor is written
    local = layout.hosts.local_of[mine]
    layout.inside(lambda own: own.reduce(wide, local, _stage(op), background=False))
    call.check()
    between = layout.between
    if layout.rank == root:
        parts = {rank: torch.empty_like(wide) for rank in ranks if rank != root}
        between.exchange("reduce", {}, parts)
        flat.copy_(_finish(_combine([parts.get(rank, wide) for rank in ranks], op), op, layout))
    elif layout.rank == mine:
        between.exchange("reduce", {root: wide}, {})


def reduce_scatter(
    layout: Layout, output: Tensor, input: Tensor, op: Op, algorithm: Algorithm
) -> None:
    """See Communicator.reduce_scatter: each rail, or each first rank, for its ranks' parts."""
    hosts = layout.hosts
    out = output.detach().view(-1)
    rows = input.detach().view(len(hosts.host_of), out.numel())
    call = layout.announce("reduce_scatter", _describe(rows, op))
    if hosts.equal:
        order = [members[local] for local in range(len(hosts.ranks[0])) for members in hosts.ranks]
        wide = _accumulator(rows[order], op)
        mine = torch.empty_like(wide[: len(hosts.ranks)])
        layout.inside(
            lambda own: own.reduce_scatter(
                mine, wide, _stage(op), algorithm=algorithm, background=False
            )
        )
        call.check()
        out.copy_(_scatter_between(layout, mine, [1] * len(hosts.ranks), op).view(-1))
        return
    wide = _accumulator(rows[[rank for members in hosts.ranks for rank in members]], op)
    layout.inside(lambda own: own.reduce(wide, 0, _stage(op), background=False))
    call.check()
    result = None
    if layout.local == 0:
        sizes = [len(members) for members in hosts.ranks]
        result = _scatter_between(layout, wide, sizes, op).to(out.dtype)
    layout.inside(lambda own: own.scatter(out, result, 0, background=False))


def _describe(tensor: Tensor, op: Op) -> str:
    """The arguments that all ranks have in common, for their comparison."""
    name = "premultiplied sum" if isinstance(op, Premultiplied) else op
    return f"{tensor.numel()} x {str(tensor.dtype).removeprefix('torch.')}, {name}"


def _reduce_between(layout: Layout, what: str, wide: Tensor, out: Tensor, op: Op) -> None:
    """All-reduces this rank's part with its rail: into `out`, which may be the same memory."""
    ranks = layout.rail
    assert ranks is not None
    others = [rank for rank in ranks if rank != layout.rank]
    exchange = layout.between.exchange
    if wide.nbytes <= _ONE_ROUND_BYTES:
        parts = {rank: torch.empty_like(wide) for rank in others}
        exchange(what, dict.fromkeys(others, wide), parts)
        out.copy_(_finish(_combine([parts.get(rank, wide) for rank in ranks], op), op, layout))
        return
    cuts = [wide.numel() * host // len(ranks) for host in range(len(ranks) + 1)]
    piece = {rank: slice(cuts[host], cuts[host + 1]) for host, rank in enumerate(ranks)}
    own = piece[layout.rank]
    parts = {rank: torch.empty_like(wide[own]) for rank in others}
    exchange(what, {rank: wide[piece[rank]] for rank in others}, parts)
    combined = _combine([parts.get(rank, wide[own]) for rank in ranks], op)
    out[own].copy_(_finish(combined, op, layout))
    exchange(what, dict.fromkeys(others, out[own]), {rank: out[piece[rank]] for rank in others})


def _scatter_between(layout: Layout, rows: Tensor, sizes: Sequence[int], op: Op) -> Tensor:
    """Combines the rail's rows and leaves those of this host, `sizes` being each host's number."""
    ranks = layout.rail
    assert ranks is not None
    of_host = dict(zip(ranks, torch.split(rows, list(sizes)), strict=True))
    own = of_host.pop(layout.rank)
    parts = {rank: torch.empty_like(own) for rank in of_host}
    layout.between.exchange("reduce_scatter", of_host, parts)
    return _finish(_combine([parts.get(rank, own) for rank in ranks], op), op, layout)


def _accumulator(tensor: Tensor, op: Op) -> Tensor:
    """The tensor, or a float32 copy of 16-bit floats that are summed or multiplied."""
    if tensor.dtype in (torch.bfloat16, torch.float16) and op not in ("max", "min"):
        return tensor.float()
    return tensor


def _stage(op: Op) -> Op:
    """What each host does with its ranks' tensors: means are sums until the end."""
    return "sum" if op == "mean" else op


def _combine(parts: Sequence[Tensor], op: Op) -> Tensor:
    """The parts in order, into the first; the order is the same on all ranks."""
    result = parts[0]
    for part in parts[1:]:
        if op == "max":
            torch.maximum(result, part, out=result)
        elif op == "min":
            torch.minimum(result, part, out=result)
        elif op == "product":
            result.mul_(part)
        else:
            result.add_(part)
    return result


def _finish(result: Tensor, op: Op, layout: Layout) -> Tensor:
    return result.div_(len(layout.hosts.host_of)) if op == "mean" else result
