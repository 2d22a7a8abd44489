"""A rank killed at any moment of any mix of operations: named by all, soon, and nothing is left."""

from __future__ import annotations

import gc
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pyparallel
from pyparallel.comm._retired import RETIRED
from pyparallel.errors import PeerLostError, PyparallelError
from pyparallel.memory import default_pool
from ranks import Job, tell_test


def held() -> tuple[int, int]:
    """Threads, and mappings of ours."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text().count("/memfd:pyparallel")
    return len(os.listdir("/proc/self/task")), maps


def work_until_somebody_dies(seed: int) -> dict[str, Any]:
    before = held()
    context = pyparallel.init()
    threads = held()[0]
    tell_test("ready")
    error = None
    try:
        mix(context.communicator, random.Random(seed), random.Random(seed + context.rank))
    except PyparallelError as raised:
        error = raised.with_traceback(None)
    ended = time.monotonic_ns()
    with pytest.raises(PyparallelError):  # nor does anything work later
        context.communicator.barrier().wait()
    context.close()
    del context
    pool = default_pool("shared")
    pool.tensor(1)  # whose segment is there, or comes now
    deadline = time.monotonic() + 30
    while len(RETIRED) > 0 and time.monotonic() < deadline:  # until the other survivors have closed
        RETIRED.sweep()
        time.sleep(0.005)
    after = held()
    return {
        "error": error,
        "ended": ended,
        "threads": after[0] - threads,
        "mappings": after[1] - before[1] - 1,
        "live": pool.statistics().live,
        "names": [name for name in os.listdir("/dev/shm") if "pyparallel" in name],
    }


def mix(c: Any, common: random.Random, own: random.Random) -> None:
    """The same operations on all ranks, waited for at different times."""
    while True:
        works = []
        for _ in range(common.randrange(1, 5)):
            size = common.choice([1, 1000, 9000, 120_000])
            shared, kind = common.random() < 0.3, common.randrange(5)
            tensor = c.empty(size) if shared else torch.ones(size)
            other = torch.ones(size)
            if kind == 0:
                works.append(c.all_reduce(tensor, "max", background=own.random() < 0.5))
            elif kind == 1:
                works.append(c.broadcast(tensor, common.randrange(c.world_size)))
            elif kind == 2:
                works.append(c.barrier())
            elif kind == 3:
                works.append(c.recv(other, (c.rank - 1) % c.world_size, tag=size))
                works.append(c.send(tensor, (c.rank + 1) % c.world_size, tag=size))
            else:
                target = common.randrange(c.world_size)
                if c.rank == target:
                    works += [c.recv(torch.ones(size), None) for _ in range(c.world_size - 1)]
                else:
                    works.append(c.send(tensor, target))
                for work in works:  # or the next of this kind might be taken for it
                    work.wait()
                c.barrier().wait()
        own.shuffle(works)
        for work in works:
            work.wait()


@pytest.mark.parametrize("turn", range(20))
def test_a_random_death_is_named_and_leaves_nothing(turn: int, seed: int) -> None:
    choose = random.Random(seed)
    world_size = choose.choice([2, 3, 4])
    victim = choose.randrange(world_size)
    with Job(world_size, work_until_somebody_dies, seed) as job:
        for rank in range(world_size):
            job.receive(rank)
        time.sleep(choose.random() ** 2 * 0.25)
        killed = job.kill(victim)
        outcomes = job.outcomes(timeout=30)
    for outcome in outcomes:
        if outcome.rank == victim:
            continue
        assert outcome.error is None, outcome.error
        found = outcome.value
        assert isinstance(found["error"], PeerLostError), found["error"]
        assert found["error"].rank == victim
        assert f"rank {victim} (process" in str(found["error"])
        assert found["ended"] - killed < 2_000_000_000
        left = {key: found[key] for key in ("threads", "mappings", "live", "names")}
        assert left == {"threads": 0, "mappings": 0, "live": 0, "names": []}
