"""A served plan beside everything else: snapshots, NumPy, forks, the end of the process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pyparallel.memory import (
    Block,
    LeakReport,
    MemoryPool,
    assert_no_leak,
    snapshot,
    use_in_numpy,
)


def test_blocks_of_the_plan_are_seen_like_others() -> None:
    pool = MemoryPool()
    planned = pool.plan_steps()
    report = LeakReport(pool, warmup=3, window=3)
    with pool.record(max_events=1000, frames=2), report:
        left: list[Block] = []
        for step in range(7):
            with pool.step():
                kept = pool.allocate(3000)
                left.append(pool.allocate(5000))  # of this line, all leak from the fourth step on
                taken = snapshot(pool)
                pool.free(kept)
            if step < 3:
                pool.free(left.pop())
            report.step()
    # The plan lets no block live so long: the first that does is served, then the plan is left.
    assert planned.statistics().planned_requests > 0
    (leak,) = report.leaks()
    assert leak.num_bytes == 5000 * len(left)
    assert __file__ in leak.site[0]
    live = [
        block
        for segment in taken["segments"]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    ]
    assert sorted(block["requested_size"] for block in live) == [3000] + [5000] * len(left)
    assert all(block["frames"][0]["filename"] == __file__ for block in live)
    with pytest.raises(AssertionError, match=r"3,000 bytes in 1 blocks"), assert_no_leak(pool):
        pool.allocate(3000)


def test_numpy_is_served(seed: int) -> None:
    pool = MemoryPool()
    planned = pool.plan_steps()
    random_state = np.random.default_rng(seed).bit_generator.state
    results = []
    with use_in_numpy(pool):
        for _ in range(5):
            with pool.step():
                draw = np.random.default_rng()
                draw.bit_generator.state = random_state
                matrix = draw.normal(size=(300, 70))
                grown = np.arange(10.0)
                grown.resize(5000, refcheck=False)
                results.append(float((matrix.T @ matrix).sum() + np.sort(matrix).sum()) + grown[9])
                del matrix, grown
    assert len(set(results)) == 1
    assert planned.statistics().planned_requests > 0
    assert planned.statistics().divergences == 0


SERVING = """
import os, sys, threading
from pyparallel.memory import MemoryPool

pool = MemoryPool()
planned = pool.plan_steps()
done = threading.Event()
def noise():
    while not done.wait(1e-4):
        pool.free(pool.allocate(700))
beside = threading.Thread(target=noise)
beside.start()
for _ in range(4):
    with pool.step():
        pool.free(pool.allocate(3000))
with pool.step():
    block = pool.allocate(3000)
    assert planned.statistics().live_blocks == 1
    if sys.argv[1] == "fork":
        for _ in range(5):
            child = os.fork()
            if child == 0:
                for call in (lambda: pool.free(block), lambda: pool.allocate(1), pool.trim):
                    try:
                        call()
                    except ValueError as error:
                        assert "forked child" in str(error)
                    else:
                        os._exit(3)
                own = MemoryPool()
                own.free(own.allocate(10))
                del pool, planned
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        pool.free(block)
    done.set(), beside.join()
    if sys.argv[1] == "exit":
        print("served", flush=True)
        sys.exit(0)
assert planned.statistics().divergences == 0
print("served", flush=True)
"""


@pytest.mark.parametrize("ending", ["fork", "exit"])
def test_a_process_may_fork_and_end_while_it_is_served(ending: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", SERVING, ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served\n", "")
