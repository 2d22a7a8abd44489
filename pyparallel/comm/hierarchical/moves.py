"""Operations that only move: within each host through shared memory, once between two hosts.

All dtypes travel as bytes. Ranks of a host need not be neighbours: results are in rank order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyparallel.comm.hierarchical.layout import Layout


def broadcast(layout: Layout, tensor: Tensor, root: int) -> None:
    """See Communicator.broadcast: along a binomial tree of hosts, then inside each."""
    call = layout.announce("broadcast", f"{_describe(tensor)}, root {root}")
    ranks = layout.hosts.representatives(root)
    data = _bytes(tensor)
    call.check()
    if ranks[layout.host] == layout.rank:
        _down_the_tree(layout, data, ranks, layout.hosts.host_of[root])
    local = layout.hosts.local_of[ranks[layout.host]]
    layout.inside(lambda own: own.broadcast(data, local, background=False))


def _down_the_tree(layout: Layout, data: Tensor, ranks: Sequence[int], first: int) -> None:
    number = len(ranks)
    place = (layout.host - first) % number

    def at(other: int) -> int:
        return ranks[(other + first) % number]

    distance = 1
    while distance < number:
        if distance <= place < 2 * distance:
            layout.between.exchange("broadcast", {}, {at(place - distance): data})
        elif place < distance and place + distance < number:
            layout.between.exchange("broadcast", {at(place + distance): data}, {})
        distance *= 2


def all_gather(layout: Layout, output: Tensor, input: Tensor) -> None:
    """See Communicator.all_gather: each rail, or each first rank, brings in its ranks' inputs."""
    hosts = layout.hosts
    call = layout.announce("all_gather", _describe(input))
    own = _bytes(input)
    rows = _rows(output, len(hosts.host_of))
    if hosts.equal:
        ranks = layout.rail
        assert ranks is not None
        mine = own.new_empty(len(ranks), own.numel())
        mine[layout.host].copy_(own)
        call.check()
        others = {rank: mine[host] for host, rank in enumerate(ranks) if rank != layout.rank}
        layout.between.exchange("all_gather", dict.fromkeys(others, own), others)
        gathered = own.new_empty(len(rows), own.numel())
        layout.inside(lambda host: host.all_gather(gathered, mine, background=False))
        order = [members[local] for local in range(len(hosts.ranks[0])) for members in hosts.ranks]
        rows[order] = gathered
        return
    of_host = _gather_inside(layout, own, 0)
    call.check()
    if of_host is not None:
        blocks = [own.new_empty(len(members), own.numel()) for members in hosts.ranks]
        blocks[layout.host] = of_host
        others = {r: blocks[h] for h, r in enumerate(hosts.leaders) if r != layout.rank}
        layout.between.exchange("all_gather", dict.fromkeys(others, of_host), others)
        for members, block in zip(hosts.ranks, blocks, strict=True):
            rows[list(members)] = block
    layout.inside(lambda host: host.broadcast(rows, 0, background=False))


def gather(layout: Layout, output: Tensor | None, input: Tensor, root: int) -> None:
    """See Communicator.gather: on one rank of each host, and from there to the root."""
    hosts = layout.hosts
    call = layout.announce("gather", f"{_describe(input)}, root {root}")
    own = _bytes(input)
    ranks = hosts.representatives(root)
    mine = ranks[layout.host]
    of_host = _gather_inside(layout, own, hosts.local_of[mine])
    call.check()
    if output is not None:
        assert of_host is not None
        blocks = {
            rank: own.new_empty(len(members), own.numel())
            for rank, members in zip(ranks, hosts.ranks, strict=True)
            if rank != root
        }
        layout.between.exchange("gather", {}, blocks)
        rows = _rows(output, len(hosts.host_of))
        for rank, members in zip(ranks, hosts.ranks, strict=True):
            rows[list(members)] = blocks.get(rank, of_host)
    elif of_host is not None:
        layout.between.exchange("gather", {root: of_host}, {})


def scatter(layout: Layout, output: Tensor, input: Tensor | None, root: int) -> None:
    """See Communicator.scatter: to one rank of each host, and from there to the others."""
    hosts = layout.hosts
    call = layout.announce("scatter", f"{_describe(output)}, root {root}")
    out = _bytes(output)
    ranks = hosts.representatives(root)
    mine = ranks[layout.host]
    call.check()
    of_host: Tensor | None = None
    if input is not None:
        rows = _rows(input, len(hosts.host_of))
        blocks = {r: rows[list(m)] for r, m in zip(ranks, hosts.ranks, strict=True)}
        of_host = blocks.pop(root)
        layout.between.exchange("scatter", blocks, {})
    elif layout.rank == mine:
        of_host = out.new_empty(len(hosts.ranks[layout.host]), out.numel())
        layout.between.exchange("scatter", {}, {root: of_host})
    local = hosts.local_of[mine]
    layout.inside(lambda own: own.scatter(out, of_host, local, background=False))


def all_to_all(
    layout: Layout,
    output: Tensor,
    input: Tensor,
    output_sizes: Sequence[int],
    input_sizes: Sequence[int],
) -> None:
    """See Communicator.all_to_all: each pair of ranks on its own, those of a host together."""
    rank, dtype = layout.rank, str(input.dtype).removeprefix("torch.")
    own = layout.hosts.ranks[layout.host]
    others = [other for other in range(len(input_sizes)) if other not in own]

    def call(source: int, destination: int, size: int) -> str:
        return f"all_to_all({size} x {dtype} from rank {source} to rank {destination})"

    announcement = layout.between.announce(
        "all_to_all",
        {
            other: (
                call(rank, other, input_sizes[other]),
                call(other, rank, output_sizes[other]),
            )
            for other in others
        },
    )
    sent = torch.split(input.detach().view(-1), list(input_sizes))
    received = torch.split(output.detach().view(-1), list(output_sizes))
    packed = torch.cat([sent[other] for other in own])
    sizes = [output_sizes[other] for other in own]
    unpacked = packed.new_empty(sum(sizes))
    layout.inside(
        lambda host: host.all_to_all(
            unpacked,
            packed,
            output_sizes=sizes,
            input_sizes=[input_sizes[other] for other in own],
            background=False,
        )
    )
    for other, part in zip(own, torch.split(unpacked, sizes), strict=True):
        received[other].copy_(part)
    announcement.check()
    layout.between.exchange(
        "all_to_all",
        {other: sent[other] for other in others},
        {other: received[other] for other in others},
    )


def barrier(layout: Layout) -> None:
    """See Communicator.barrier: each host; then all hosts, which tell each other the call."""
    layout.inside(lambda own: own.barrier())
    layout.announce("barrier", "").check()
    if not layout.hosts.equal:  # only the first ranks know
        layout.inside(lambda own: own.barrier())


def _gather_inside(layout: Layout, own: Tensor, root: int) -> Tensor | None:
    """The inputs of this host's ranks, on its local rank `root`."""
    block = None
    if layout.local == root:
        block = own.new_empty(layout.own.world_size, own.numel())
    layout.inside(lambda host: host.gather(block, own, root, background=False))
    return block


def _rows(tensor: Tensor, number: int) -> Tensor:
    data = _bytes(tensor)
    return data.view(number, data.numel() // number)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().view(-1).view(torch.uint8)


def _describe(tensor: Tensor) -> str:
    return f"{tensor.numel()} x {str(tensor.dtype).removeprefix('torch.')}"
