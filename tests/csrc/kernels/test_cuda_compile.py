"""Every CUDA source compiles without a warning, spills nothing and uses whole 16-byte accesses."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))
ARCHITECTURES = ("80", "90")
MAX_REGISTERS = 128  # two blocks of 256 threads, each thread with 100 bytes and more in flight

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@dataclass(frozen=True)
class Kernel:
    """What ptxas reports of one kernel on one architecture."""

    name: str
    architecture: str
    stack_bytes: int
    spill_bytes: int
    registers: int


def compile_source(source: Path, folder: Path) -> tuple[str, str]:
    """ptxas' report and the PTX of one source.

    Device code alone: g++ sees what is the host's, with warnings as errors, where the same sources
    are compiled for the emulated device.
    """
    folder.mkdir()
    command = ["nvcc", "-std=c++20", "-DPYPARALLEL_CUDA=1", "-I", str(ROOT / "csrc")]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHITECTURES]
    command += ["-Werror=all-warnings", "-Xptxas=-v", "--keep", "--keep-dir", str(folder)]
    command += ["-fatbin", str(source), "-o", str(folder / "o.fatbin")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr, "".join(p.read_text() for p in folder.glob("*.ptx"))


def parse_kernels(report: str) -> list[Kernel]:
    """The kernels in the order of the report; the functions they call are left out."""
    entry = (
        r"Compiling entry function '(\w+)' for 'sm_(\d+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers"
    )
    return [
        Kernel(name, arch, int(stack), int(stores) + int(loads), int(registers))
        for name, arch, stack, stores, loads, registers in re.findall(entry, report, re.DOTALL)
    ]


def test_the_report_is_understood():
    """The checks below would pass on a report that the parser cannot read."""
    report = (
        "ptxas info    : Compiling entry function '_Z1kv' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1kv\n"
        "    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 0 barriers\n"
    )
    assert parse_kernels(report) == [Kernel("_Z1kv", "90", 16, 12, 255)]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Iterator[dict[Path, Future]]:
    """Sources that are compiled while the tests of the first ones run."""
    folder = tmp_path_factory.mktemp("nvcc")
    with ThreadPoolExecutor(2) as pool:
        yield {s: pool.submit(compile_source, s, folder / s.stem) for s in SOURCES}


def test_there_are_sources():
    assert SOURCES


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_kernels_stay_in_registers(source, compiled):
    report, _ = compiled[source].result()
    kernels = parse_kernels(report)
    assert {kernel.architecture for kernel in kernels} == set(ARCHITECTURES), report
    assert len(kernels) == report.count("Compiling entry function"), report
    for kernel in kernels:
        assert kernel.stack_bytes == 0, kernel
        assert kernel.spill_bytes == 0, kernel
        assert kernel.registers <= MAX_REGISTERS, kernel


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_wide_accesses_move_16_bytes(source, compiled):
    """The compiler may cut one 16-byte access into smaller ones; only single elements may be."""
    _, ptx = compiled[source].result()
    wide = re.findall(r"\b(?:ld|st)\.global(?:\.\w+)*?\.v([248])\.[bfsu](\d+)", ptx)
    assert wide
    # A single float may be read as two halves, where its type is known only at run time.
    assert {int(count) * int(bits) // 8 for count, bits in wide} - {4} == {16}
