"""Writes docs/kernels.md: what each CUDA kernel needs, as ptxas reports it. Needs nvcc and c++filt.

usage: python scripts/kernel_table.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "90"
REGISTERS, THREADS = 65536, 2048  # of a multiprocessor of compute capability 9.0
BLOCK = 256

HEADER = """# The CUDA kernels

Made by `scripts/kernel_table.py` for compute capability 9.0 ({compiler}). Occupancy: resident
threads of a multiprocessor's {threads}, in blocks of {block}, as the registers allow. No kernel
spills.

A step over a list of tensors is one launch whatever its length (one more counts the steps, two more
measure where a rule does). The table of up to 388 tensors travels in the kernel's arguments; a
longer one lies in device memory, uploaded from pinned memory in stream order when an address has
changed, and is read until an event says that no launch uses it. A table that a CUDA graph captured
stays for the life of the process.

## Registers

| kernel | registers | shared bytes | occupancy |
| --- | --- | --- | --- |
"""

COMMUNICATION = """
## Bytes per element of a communication kernel

`accumulate` of n sources reads n elements and writes one; its sum of squares reads nothing more.
`encode_blocks` reads a value and writes a code and 1/64 byte of scale; with error feedback it reads
and writes 4 bytes more. `decode_blocks` reads 1.016 bytes per source and writes an element (and
reads it, to add).
"""

BYTES = """
## Bytes per parameter

What a step must read and write. The gradient has the parameter's dtype; an fp32 master is read and
written in place of the parameter, which then is only written; a remainder is read and written
beside it; 8-bit moments carry a float32 scale per 128 elements. Clipping by `max_norm`, or finding
inf for a GradScaler, reads the gradient once more.

| parameters | states | {optimizers} |
| --- | --- | {rule} |
"""

STATES = {
    "SGD": 0,
    "SGD with momentum, Adagrad, RMSprop, Lion": 1,
    "Adam, AdamW": 2,
    "Adam with amsgrad": 3,
}
PARAMETERS = {
    "fp64": (24.0, ("fp64",)),
    "fp32": (12.0, ("fp32", "bf16", "8-bit")),
    "bf16, fp16": (6.0, ("fp32", "bf16", "8-bit")),
    "bf16, fp16 with fp32 master": (12.0, ("fp32", "bf16", "8-bit")),
    "bf16 with remainder": (10.0, ("fp32", "bf16", "8-bit")),
}
STATE_BYTES = {"fp64": 16.0, "fp32": 8.0, "bf16": 4.0, "8-bit": 2 * (1 + 4 / 128)}


@dataclass(frozen=True)
class Kernel:
    """One kernel as ptxas reports it."""

    name: str
    registers: int
    shared_bytes: int

    @property
    def occupancy(self) -> float:
        """Part of a multiprocessor's threads that can be resident."""
        granted = -(-self.registers // 8) * 8 * BLOCK
        return min(REGISTERS // granted, THREADS // BLOCK) * BLOCK / THREADS


def kernels_of(source: Path) -> list[Kernel]:
    """Compiles a source and reads the report."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *("nvcc", "-std=c++20", "-DPYPARALLEL_CUDA=1", "-I", str(ROOT / "csrc")),
                f"-gencode=arch=compute_{ARCHITECTURE},code=sm_{ARCHITECTURE}",
                *("-Xptxas=-v", "-c", str(source), "-o", f"{folder}/o.o"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    entry = r"Compiling entry function '(\w+)'.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?"
    return [
        Kernel(readable(name), int(registers), int(shared or 0))
        for name, registers, shared in re.findall(entry, done.stdout + done.stderr, re.DOTALL)
    ]


def readable(mangled: str) -> str:
    """A kernel's name without namespaces, arguments and return type."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout
    name = name.strip().replace("pyparallel::", "").replace("(anonymous namespace)::", "")
    name = re.sub(r"\(bool\)", "", name)
    name = name.split("(")[0].removeprefix("void ")
    return re.sub(r"__nv_bfloat16", "bfloat16", name).replace("__half", "float16")


def bytes_table() -> str:
    """Bytes per parameter of the elementwise optimizers."""
    lines = [BYTES.format(optimizers=" | ".join(STATES), rule=" | ".join("---" for _ in STATES))]
    for parameters, (base, states) in PARAMETERS.items():
        for state in states:
            moved = " | ".join(f"{base + n * STATE_BYTES[state]:.4g}" for n in STATES.values())
            lines.append(f"| {parameters} | {state} | {moved} |\n")
    return "".join(lines)


def main() -> int:
    """Compiles all sources and writes the file."""
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"release [\d.]+, V([\d.]+)", version.stdout)
    compiler = f"nvcc {found[1]}" if found else "nvcc"
    rows: dict[str, Kernel] = {}
    for source in sorted((ROOT / "csrc" / "kernels").glob("*.cu")):
        print(f"compiling {source.name}", file=sys.stderr)
        rows |= {kernel.name: kernel for kernel in kernels_of(source)}
    text = HEADER.format(compiler=compiler, threads=THREADS, block=BLOCK)
    for name, kernel in sorted(rows.items()):
        percent = f"{100 * kernel.occupancy:.0f} %"
        text += f"| `{name}` | {kernel.registers} | {kernel.shared_bytes} | {percent} |\n"
    (ROOT / "docs" / "kernels.md").write_text(text + COMMUNICATION + bytes_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
