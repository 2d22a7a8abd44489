"""Runs torch's own distributed tests over our backend: many of them in the ranks of one job.

torch starts new processes for every test. Here the ranks keep their process group from one test to
the next, and a job ends with the first test that fails in one of them.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
import traceback
import unittest
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ranks import Job, Outcome, run_ranks


@dataclass
class Result:
    """How a test ended: "passed", "skipped" with a reason, or "failed" with a text."""

    name: str
    status: str
    text: str = ""
    seconds: float = 0.0


def run_suite(
    names: Sequence[str], *, world_size: int, written_for: str, timeout: float = 120
) -> dict[str, Result]:
    """Runs the tests of these names; a new job goes on after one that fails.

    Args:
        names: of test methods.
        world_size: ranks of the job.
        written_for: the backend whose tests they are: "gloo" or "mpi".
        timeout: of a job, in seconds.
    """
    results: dict[str, Result] = {}
    while len(results) < len(names):
        left = [name for name in names if name not in results]
        with tempfile.TemporaryDirectory() as directory:
            for part in ("barrier", "test_dir"):
                (Path(directory) / part).mkdir()
            environment = {"BACKEND": written_for, "TEMP_DIR": directory, "KINETO_LOG_LEVEL": "9"}
            with Job(world_size, _run_in_rank, left, environment=environment) as job:
                try:
                    outcomes = job.outcomes(timeout=timeout)
                except TimeoutError as error:
                    outcomes = [Outcome(0, error=error)]
            done = (Path(directory) / "progress").read_text().split()
        results.update(_merged(done, left, outcomes))
    return results


def all_names() -> list[str]:
    """Every test that torch has; runs in a rank of its own."""
    environment = {"BACKEND": "gloo", "TEMP_DIR": tempfile.gettempdir()}
    found: list[str] = run_ranks(1, _names, environment=environment)[0]
    return found


def _names() -> list[str]:
    return [name for name in dir(_case_class(_suite())) if name.startswith("test_")]


def _merged(done: list[str], left: list[str], outcomes: list[Outcome]) -> dict[str, Result]:
    """The results of a job; what stopped it counts for the test that was running."""
    merged: dict[str, Result] = {}
    for outcome in outcomes:
        for result in outcome.value or []:
            known = merged.get(result.name)
            if known is None or result.status == "failed":
                merged[result.name] = result
    crashed = [outcome for outcome in outcomes if outcome.value is None]
    if crashed:
        for name in done[:-1]:
            merged.setdefault(name, Result(name, "passed"))
        last = done[-1] if done else left[0]
        if merged.get(last) is None or merged[last].status != "failed":
            merged[last] = Result(last, "failed", f"rank ended: {crashed[0].error!r}")
    return merged


def _suite() -> Any:
    """torch's tests. Their decorators choose by BACKEND here; the tests themselves see our name."""
    from torch.testing._internal.distributed import distributed_test

    distributed_test.BACKEND = "pyparallel"
    distributed_test.DistTestCases.backend_feature["ddp"].add("pyparallel")
    os.environ["BACKEND"] = "mpi"  # the one name for which groups of 2 in a world of 3 are tested
    return distributed_test


def _case_class(suite: Any) -> Any:
    class Case(suite.TestDistBackend, suite.DistributedTest._DistTestBase):  # type: ignore[misc]
        pass

    return Case


def _run_in_rank(names: list[str]) -> list[Result]:
    suite = _suite()
    case_class = _case_class(suite)
    rank = int(os.environ["RANK"])
    results = []
    for name in names:
        if rank == 0:
            with open(Path(os.environ["TEMP_DIR"]) / "progress", "a") as progress:
                progress.write(f"{name}\n")
        # These have a branch for every backend they know.
        suite.BACKEND = "gloo" if "accumulate_gradients" in name else "pyparallel"
        results.append(_run_test(case_class, name, rank))
        if results[-1].status == "failed":
            return results
    if dist.is_initialized():
        dist.destroy_process_group()
    return results


def _run_test(case_class: Any, name: str, rank: int) -> Result:
    from torch.testing._internal import common_utils
    from torch.testing._internal.common_distributed import TEST_SKIPS

    if not dist.is_initialized():
        dist.init_process_group("pyparallel")
    case = case_class(name)
    case.rank = rank
    common_utils.set_rng_seed()
    began = time.monotonic()
    status, text = "passed", ""
    method = getattr(case, name)
    try:
        if getattr(method, "__unittest_skip__", False):
            raise unittest.SkipTest(method.__unittest_skip_why__)
        method()
    except unittest.SkipTest as skip:
        status, text = "skipped", str(skip)
    except SystemExit as end:
        reasons = [skip.message for skip in TEST_SKIPS.values() if skip.exit_code == end.code]
        status, text = ("skipped", reasons[0]) if reasons else ("failed", f"exit {end.code}")
    except BaseException:
        status, text = "failed", traceback.format_exc()
    if status != "failed":
        with contextlib.suppress(AttributeError):
            case.doCleanups()
        try:
            if dist.is_initialized():
                dist.barrier()
        except Exception:
            status, text = "failed", "the barrier afterwards: " + traceback.format_exc()
    return Result(name, status, text, time.monotonic() - began)
