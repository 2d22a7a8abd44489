"""The package: a quiet import, a core that links no torch and exports nothing of ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pyparallel
from pyparallel._native import core

PROBE = """
import os, sys, threading
import torch, numpy, rich
before = dict(os.environ), threading.active_count(), len(os.listdir("/proc/self/task"))
import pyparallel
after = dict(os.environ), threading.active_count(), len(os.listdir("/proc/self/task"))
assert before == after, (before, after)
"""


def test_import_is_silent_and_changes_nothing() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert (probe.returncode, probe.stdout, probe.stderr) == (0, "", "")


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this Python runs with a GIL"
)
def test_the_import_leaves_a_free_threaded_python_without_a_gil() -> None:
    code = "import sys, pyparallel; print(sys._is_gil_enabled())"
    assert run(sys.executable, "-c", code) == "False\n"


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_core_exports_only_its_entry_and_torchs_allocator() -> None:
    symbols = run("nm", "-D", "--defined-only", core.__file__).split("\n")
    calls = ("allocate", "free", "record_stream", "empty_cache", "set_memory_fraction")
    allocator = {f"pyparallel_torch_{call}" for call in (*calls, "base_allocation")}
    assert {line.split()[-1] for line in symbols if line} == {"PyInit__C"} | allocator


def test_the_core_links_neither_torch_nor_a_runtime_of_its_own() -> None:
    needed = run("readelf", "-d", core.__file__)
    assert "libc.so" in needed
    for library in ("torch", "c10", "cudart", "libcuda", "gomp", "omp5", "nccl", "libpython"):
        assert library not in needed, library


def test_features_say_what_was_built() -> None:
    features = pyparallel.features()
    assert features["version"] == pyparallel.__version__
    assert features["isa"] in ("baseline", "avx2", "avx512")
    assert isinstance(features["cuda"], bool)
    assert not features["cuda"] or features["cuda_devices"] >= 0


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_another_instruction_set_can_be_asked_for(isa: str) -> None:
    code = "import pyparallel; print(pyparallel.features()['isa'])"
    environment = {**os.environ, "PYPARALLEL_ISA": isa}
    probe = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert probe.stdout.strip() == isa or "this CPU only has" in probe.stderr


def test_an_unknown_instruction_set_is_named() -> None:
    environment = {**os.environ, "PYPARALLEL_ISA": "avx1024"}
    probe = subprocess.run(
        [sys.executable, "-c", "import pyparallel"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert probe.returncode != 0
    assert "PYPARALLEL_ISA=avx1024 is none of baseline, avx2, avx512" in probe.stderr
