"""Every way runs every collective, and what comes out of it is exact, or it is found."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

import ranks
from pyparallel.cli.collectives import COLLECTIVES, REDUCTIONS, Case
from pyparallel.cli.job import ProcessRanks
from pyparallel.cli.ways import Way, enter, our_way, torch_way
from pyparallel.comm import GroupCommunicator

DTYPES = (torch.float32, torch.bfloat16, torch.int64)


def joined() -> ProcessRanks:
    dist.init_process_group("gloo")
    communicator = GroupCommunicator(dist.group.WORLD, torch.device("cpu"))
    context = SimpleNamespace(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        device=torch.device("cpu"),
        communicator=communicator,
    )
    return ProcessRanks(context, {"gloo": dist.group.WORLD})


def cases(world_size):
    for name, collective in COLLECTIVES.items():
        for op in REDUCTIONS if collective.combines else ("sum",):
            for dtype in DTYPES:
                if op != "mean" or dtype.is_floating_point:
                    for num_bytes in (1, 1000):
                        yield Case.of_bytes(name, num_bytes, dtype, op, world_size)


def run_every_case(seed):
    world = joined()
    verified = 0
    for case in cases(world.world_size):
        for way in (our_way("ours"), torch_way("torch", "gloo")):
            entry = enter(way, case, world, seed=seed)
            entry.verify()
            entry.contestant.prepare()
            entry.contestant.run()
            verified += 1
    return verified


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_collective_is_exact_every_way(world_size, seed):
    assert ranks.run_ranks(world_size, run_every_case, seed) == [2 * len([*cases(2)])] * world_size


def run_with_a_fault(name, op, wrong_rank):
    world = joined()
    case = Case.of_bytes(name, 400, torch.float32, op, world.world_size)
    way = our_way("ours")

    def bind(ranks, case, send, receive):
        run = way.bind(ranks, case, send, receive)

        def faulty():
            run()
            if world.context.rank == wrong_rank:
                receive[-1] += 1

        return faulty

    enter(Way("faulty", bind), case, world, seed=1).verify()


@pytest.mark.parametrize("name", COLLECTIVES)
def test_one_wrong_element_of_the_last_rank_is_found_and_named(name):
    # Only the root receives from these two.
    wrong_rank = 0 if name in ("reduce", "gather") else 1
    errors = ranks.errors_of_ranks(2, run_with_a_fault, name, "max", wrong_rank)
    assert errors[1 - wrong_rank] is None
    found = str(errors[wrong_rank])
    assert f"{name} through faulty: 1 of " in found
    assert "it must be" in found


def leave_out_the_operation(name):
    world = joined()
    case = Case.of_bytes(name, 400, torch.float32, "sum", world.world_size)
    way = Way("idle", lambda *_: lambda: None)
    entry = enter(way, case, world, seed=1)
    with pytest.raises(AssertionError, match=f"{name} through idle"):
        entry.verify()


@pytest.mark.parametrize("name", sorted(set(COLLECTIVES) - {"reduce", "gather", "broadcast"}))
def test_a_way_that_does_nothing_is_found_on_every_rank(name):
    ranks.run_ranks(2, leave_out_the_operation, name)


def work_only_once():
    world = joined()
    case = Case.of_bytes("all_gather", 400, torch.int64, "sum", world.world_size)

    def bind(*arguments):
        runs = [our_way("ours").bind(*arguments)]
        return lambda: runs.pop()() if runs else None

    entry = enter(Way("lazy", bind), case, world, seed=1)
    entry.verify()
    with pytest.raises(AssertionError, match="50 of 50 elements are wrong"):
        entry.verify()


def test_a_result_that_is_left_from_an_earlier_run_is_none():
    ranks.run_ranks(2, work_only_once)


def rewrite():
    world = joined()
    case = Case.of_bytes("all_gather", 16, torch.float32, "sum", world.world_size)
    buffers = []

    def bind(ranks, case, send, receive):
        buffers.extend((send, receive))
        return lambda: None

    entry = enter(Way("idle", bind), case, world, seed=1)
    entry.contestant.prepare()
    return [buffer.tolist() for buffer in buffers]


def test_every_rank_rewrites_its_buffers_before_a_run():
    assert ranks.run_ranks(2, rewrite) == [[[1.0] * 2, [1.0] * 4], [[2.0] * 2, [2.0] * 4]]
