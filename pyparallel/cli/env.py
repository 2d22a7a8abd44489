"""`python -m pyparallel env`: what this build, this torch and this machine can do, as a table."""

import os
import platform
from collections.abc import Iterator, Sequence

from pyparallel.cli.arguments import SentenceParser


def main(arguments: Sequence[str]) -> int:
    """Prints the table."""
    SentenceParser(
        prog="python -m pyparallel env",
        description="Shows what this build, this torch and this machine can do.",
    ).parse_args(arguments)
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "value", title="pyparallel")
    for what, value in rows():
        table.add_row(what, value)
    Console(highlight=False).print(table)
    return 0


def rows() -> Iterator[tuple[str, str]]:
    """Names and values of the table's rows."""
    import torch

    import pyparallel
    from pyparallel.cli import machine

    for name, value in pyparallel.features().items():
        yield name.replace("_", " "), _readable(value)
    yield "torch", torch.__version__
    yield "CUDA of torch", torch.version.cuda or "no"
    yield "python", platform.python_version()
    yield "system", platform.platform()
    yield "physical cores to use", str(machine.usable_cores())
    yield "memory", _gibibytes(*machine.memory_bytes())
    yield "shared memory", _gibibytes(*machine.shared_memory_bytes())
    yield "GPUs", ", ".join(machine.gpus()) or "none"
    yield "OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "not set")


def _gibibytes(total: int, free: int) -> str:
    return f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free"


def _readable(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
