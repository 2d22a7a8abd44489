"""Where a result comes from: the machine, the versions, the commit."""

import os
import platform
import re
import subprocess
from pathlib import Path

import torch

import pyparallel
from benchmarks import ROOT

# What a run of the benchmarks itself writes does not make the measured sources differ.
WRITTEN_BY_BENCHMARKS = ("README.md", "benchmarks/results")


def machine() -> dict[str, object]:
    """CPU model, usable cores, memory in GiB, and GPUs, which are none on most machines."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": cpu_model(Path("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def cpu_model(information: Path) -> str:
    """The model named in /proc/cpuinfo, or the architecture where it names none."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def versions() -> dict[str, object]:
    """Versions of what was measured and of what it was measured with."""
    features = pyparallel.features()
    return {
        "pyparallel": features["version"],
        "isa": features["isa"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "compiler": _compiler(),
        "cuda": torch.version.cuda,
    }


def _compiler() -> str | None:
    """The compiler that left its name in the native module, if it did."""
    native = next(Path(pyparallel.__file__).parent.glob("_C.*so"), None)
    if native is None:
        return None
    found = re.search(rb"(GCC): \([^)]*\) ([\d.]+)|(clang) version ([\d.]+)", native.read_bytes())
    return b" ".join(filter(None, found.groups())).decode() if found else None


def commit(root: Path = ROOT) -> dict[str, object]:
    """The commit's hash (None outside a repository) and whether the sources differ from it."""
    head = _git(root, "rev-parse", "HEAD")
    excluded = [f":(exclude){path}" for path in WRITTEN_BY_BENCHMARKS]
    changes = _git(root, "status", "--porcelain", "--", ".", *excluded)
    return {"hash": head, "dirty": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
