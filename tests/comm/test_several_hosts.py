"""Two network namespaces as hosts, two ranks each, under torchrun: right, and cut off by name."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import pyparallel

PROGRAM = Path(__file__).with_name("several_hosts_program.py")
PORT = 29_533


@dataclass
class Namespaces:
    """Two hosts that see each other over one cable, and nothing else."""

    names: tuple[str, str]
    cable: str

    def popen(self, host: int, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["ip", "netns", "exec", self.names[host], *command], **options)  # type: ignore[call-overload,no-any-return]

    def cut(self) -> None:
        """Pulls the cable out of the second host; nobody is told."""
        _ip("-n", self.names[1], "link", "set", f"{self.cable}1", "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10)


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    base = f"pp{os.getpid() % 100_000}"
    pair = Namespaces((f"{base}a", f"{base}b"), base)
    with contextlib.ExitStack() as stack:
        try:
            for name in pair.names:
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "delete", name)
            ends = ["veth", "peer", "name", f"{base}1", "netns", pair.names[1]]
            _ip("link", "add", f"{base}0", "netns", pair.names[0], "type", *ends)
            for host, name in enumerate(pair.names):
                _ip("-n", name, "address", "add", f"10.99.0.{host + 1}/24", "dev", f"{base}{host}")
                _ip("-n", name, "link", "set", f"{base}{host}", "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            pytest.skip(f"network namespaces are not permitted here: {reason}")
        yield pair


def test_hosts_work_together_and_a_host_that_is_cut_off_is_named(
    namespaces: Namespaces, tmp_path: Path
) -> None:
    jobs = []
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GLOO_")}
    environment |= {"OMP_NUM_THREADS": "1", "PYPARALLEL_TIMEOUT": "60"}
    environment["PYTHONPATH"] = str(Path(pyparallel.__file__).parents[1])
    try:
        for host in range(2):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
            command += ["--nproc-per-node=2", f"--node-rank={host}", "--master-addr=10.99.0.1"]
            command += [f"--master-port={PORT}", str(PROGRAM), str(tmp_path)]
            own = {**environment, "PYPARALLEL_HOST": f"host{host}"}
            with (tmp_path / f"log{host}").open("wb") as log:
                jobs.append(namespaces.popen(host, command, env=own, stdout=log, stderr=log))
        wait_for(tmp_path, "ready", jobs)
        namespaces.cut()
        cut = time.monotonic()
        ends = wait_for(tmp_path, "end", jobs)
    finally:
        for job in jobs:
            job.kill()  # torchrun; its workers end with their parent
        for job in jobs:
            job.wait(10)
    for rank, end in enumerate(ends):
        assert end["type"] == "PeerLostError", end
        assert end["lost"] // 2 != rank // 2, end
        assert f"on host host{1 - rank // 2}" in end["message"], end
        assert end["ended"] - cut < 12, end


def wait_for(
    folder: Path, what: str, jobs: list[subprocess.Popen[bytes]]
) -> list[dict[str, object]]:
    """What the four ranks have written under this name."""
    deadline = time.monotonic() + 60
    paths = [folder / f"{what}{rank}" for rank in range(4)]
    while not all(path.exists() for path in paths):
        if time.monotonic() > deadline or any(job.poll() is not None for job in jobs):
            logs = "\n".join(path.read_text() for path in folder.glob("log*"))
            raise RuntimeError(f"no {what} of all ranks:\n{logs}")
        time.sleep(0.05)
    return [json.loads(path.read_text()) for path in paths]
