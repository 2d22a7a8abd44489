"""Jobs of a few ranks for tests: a process per rank, forked from a warm server without threads.

The server has imported torch and pyparallel and nothing else, so a job of two ranks starts in about
50 ms. The environment is torchrun's; the store lives in the test process, so no port can be lost.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist

Environment = Mapping[str, str | None] | Callable[[int], Mapping[str, str | None]]
_NOTHING: Mapping[str, str | None] = MappingProxyType({})

_SERVER = multiprocessing.get_context("forkserver")
_PRELOADED = ["torch", "torch._dynamo", "torch.distributed", "pyparallel", "pytest", "hypothesis"]
_SERVER.set_forkserver_preload(_PRELOADED)
# torch looks up the name of ::ffff:127.0.0.1, which a name server may keep waiting for 5 s.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
_GRACE_SECONDS = 10.0
STARTED: list[int] = []  # process ids of all ranks ever started
_to_test: connection.Connection | None = None  # in a rank


@dataclass
class Outcome:
    """How a rank ended: a value, an error, or neither if it was killed."""

    rank: int
    value: Any = None
    error: BaseException | None = None
    ended_ns: int = field(default_factory=time.monotonic_ns)


def tell_test(value: Any) -> None:
    """In a rank: sends a message for Job.receive()."""
    assert _to_test is not None, "not in a rank"
    _to_test.send(("message", value))


def meet(name: str) -> None:
    """In a rank: waits until all ranks of the job are here, through nothing that is tested.

    So a rank that fails or leaves on purpose does it when no other is still on its way there.
    """
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    if store.add(f"meet/{name}", 1) == int(os.environ["WORLD_SIZE"]):
        store.set(f"meet/{name}/all", "here")
    store.wait([f"meet/{name}/all"])


class Job:
    """Ranks that run one function; a context manager that leaves no process behind."""

    def __init__(
        self,
        world_size: int,
        function: Callable[..., Any],
        *args: Any,
        environment: Environment = _NOTHING,
    ) -> None:
        """Starts `function(*args)` in every rank.

        `function` and `args` are pickled, so the function belongs to a module. `environment` is put
        over torchrun's variables (None removes one), for all ranks or by rank.
        """
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._links: list[connection.Connection] = []
        self._processes: list[Any] = []
        for rank in range(world_size):
            own = environment(rank) if callable(environment) else environment
            variables = {**_torchrun_variables(rank, world_size, self._store.port), **own}
            link, other = _SERVER.Pipe()
            process = _SERVER.Process(
                target=_run, args=(other, variables, function, args), daemon=True
            )
            _start(process)
            other.close()
            STARTED.append(process.pid)
            self._links.append(link)
            self._processes.append(process)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join(_GRACE_SECONDS)

    def receive(self, rank: int, *, timeout: float = 30) -> Any:
        """The next tell_test() of a rank."""
        if not self._links[rank].poll(timeout):
            raise TimeoutError(f"rank {rank} sent nothing for {timeout} s")
        kind, value = self._links[rank].recv()
        if kind == "error":
            raise value
        assert kind == "message", f"rank {rank} has ended with {value!r}"
        return value

    def kill(self, rank: int, number: int = signal.SIGKILL) -> int:
        """Sends a signal; returns when (nanoseconds of time.monotonic_ns())."""
        now = time.monotonic_ns()
        os.kill(self._processes[rank].pid, number)
        return now

    def outcomes(self, *, timeout: float = 60) -> list[Outcome]:
        """Waits until every rank has ended; kills all of them at the timeout."""
        deadline = time.monotonic() + timeout
        outcomes = {}
        while len(outcomes) < len(self._links):
            waiting = {self._links[r]: r for r in range(len(self._links)) if r not in outcomes}
            ready = connection.wait(list(waiting), max(0.0, deadline - time.monotonic()))
            if not ready:
                self._dump_stacks(list(waiting.values()))
                raise TimeoutError(f"ranks {sorted(waiting.values())} did not end in {timeout} s")
            for link in ready:
                outcome = self._outcome(waiting[link])
                if outcome is not None:
                    outcomes[outcome.rank] = outcome
                    if outcome.error is not None:
                        deadline = min(deadline, time.monotonic() + _GRACE_SECONDS)
        for process in self._processes:
            process.join(_GRACE_SECONDS)
        return [outcomes[rank] for rank in range(len(self._links))]

    def _outcome(self, rank: int) -> Outcome | None:
        try:
            kind, *details = self._links[rank].recv()
        except EOFError:  # killed
            return Outcome(rank)
        if kind == "message":
            return None
        if kind == "value":
            return Outcome(rank, value=details[0], ended_ns=details[1])
        error, text, ended_ns = details
        error.add_note(f"raised by rank {rank}:\n{text}")
        return Outcome(rank, error=error, ended_ns=ended_ns)

    def _dump_stacks(self, ranks: list[int]) -> None:
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(self._processes[rank].pid, signal.SIGUSR1)
        time.sleep(0.5)


def run_ranks(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 60,
    environment: Environment = _NOTHING,
) -> list[Any]:
    """The results of `function(*args)`, in rank order; raises the earliest failure."""
    with Job(world_size, function, *args, environment=environment) as job:
        outcomes = job.outcomes(timeout=timeout)
        exit_codes = [process.exitcode for process in job._processes]
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        first = min(failed, key=lambda outcome: outcome.ended_ns)
        assert first.error is not None
        raise first.error
    assert exit_codes == [0] * world_size, f"the ranks' exit codes are {exit_codes}"
    return [outcome.value for outcome in outcomes]


def errors_of_ranks(
    world_size: int, function: Callable[..., Any], *args: Any, **options: Any
) -> list[BaseException | None]:
    """What every rank raised, in rank order."""
    with Job(world_size, function, *args, **options) as job:
        return [outcome.error for outcome in job.outcomes()]


def _torchrun_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "PYPARALLEL_TIMEOUT": "30",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def _start(process: Any) -> None:
    """The first start makes the server: NumPy's threads in it would be lost in a fork."""
    saved = os.environ.get("OPENBLAS_NUM_THREADS")
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    try:
        process.start()
    finally:
        del os.environ["OPENBLAS_NUM_THREADS"]
        if saved is not None:
            os.environ["OPENBLAS_NUM_THREADS"] = saved


def _run(
    link: connection.Connection,
    variables: Mapping[str, str | None],
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    global _to_test
    _to_test = link
    faulthandler.register(signal.SIGUSR1, file=sys.__stderr__, all_threads=True)
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    torch.set_num_threads(1)
    gc.freeze()  # the server's objects are many, and no test's
    try:
        link.send(("value", function(*args), time.monotonic_ns()))
    except BaseException as error:
        failure = (traceback.format_exc(), time.monotonic_ns())
        try:
            link.send(("error", error, *failure))
        except Exception:  # an exception that cannot be pickled
            link.send(("error", RuntimeError(repr(error)), *failure))
    atexit._run_exitfuncs()  # as at the end of an interpreter; a forked process would skip it
