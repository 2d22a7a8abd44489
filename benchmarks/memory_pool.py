"""One allocate and free that hit a cache, called from C++: our pool against malloc and torch's."""

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import command
from benchmarks.results import Row
from pyparallel._native import core
from pyparallel.cli.timer import Contestant, Spread

NAME = "memory_pool"
PAIRS = 200_000
SMALL, LARGE = 2 << 10, 4 << 20


@dataclass(frozen=True)
class Functions:
    """Two addresses, called as torch calls a pluggable allocator, or as malloc and free are."""

    allocate: int
    free: int
    of_torch: bool = False

    def repeat(self, num_bytes: int, pairs: int, threads: int) -> None:
        """One block at a time, on all threads at once."""
        core.repeat_function_allocations(
            self.of_torch, self.allocate, self.free, num_bytes, pairs, threads
        )


@dataclass(frozen=True)
class Case:
    """One comparison; `most_seconds` is claimed of the defaults."""

    words: str
    num_bytes: int
    threads: int
    through_symbols: bool = False
    most_seconds: float | None = None


CASES = (
    Case("2 KiB, 1 thread", SMALL, 1, most_seconds=100e-9),
    Case("2 KiB, 2 threads", SMALL, 2, most_seconds=150e-9),
    Case("4 MiB, 1 thread", LARGE, 1),
    Case("2 KiB, 1 thread, the symbols for torch", SMALL, 1, True, most_seconds=150e-9),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    parser = command.parser(NAME, __doc__, rounds=30)
    parser.add_argument("--pairs", type=command.positive, default=PAIRS, help="of a round")
    options = parser.parse_args(arguments)
    options.threads = options.threads or max(case.threads for case in CASES)
    default = command.is_default(options, parser)

    def rows() -> Iterator[Row]:
        timer = command.timer(options)
        pool = core.Pool("host", 0, None, False)
        malloc, of_torch = library_functions(), torch_functions()
        symbols = symbol_functions()
        for case in CASES:
            ours = symbols.repeat if case.through_symbols else pool_repeat(pool)
            peer, peer_name = (
                (of_torch, "torch's CPU allocator") if case.through_symbols else (malloc, "malloc")
            )
            contestants = [
                contestant("ours", ours, case, options.pairs),
                contestant("peer", peer.repeat, case, options.pairs),
            ]
            with command.progress(case.words, timer) as advance:
                measured = timer.compare(contestants, verify=lambda: None, advance=advance)
            spreads = {
                name: Spread.of(seconds / options.pairs for seconds in measured.seconds[name])
                for name in ("ours", "peer")
            }
            yield Row(
                label=f"allocate + free of {case.words}",
                peer_name=peer_name,
                ours=spreads["ours"],
                peer=spreads["peer"],
                ratio=measured.ratio("peer", "ours"),
                most_seconds=case.most_seconds if default else None,
            )

    return command.run(NAME, options, lambda: list(rows()))


Repeat = Callable[[int, int, int], None]


def contestant(name: str, repeat: Repeat, case: Case, pairs: int) -> Contestant:
    """Runs a case so many times."""
    return Contestant(name, lambda: repeat(case.num_bytes, pairs, case.threads))


def pool_repeat(pool: core.Pool) -> Repeat:
    """A pool, called directly."""

    def repeat(num_bytes: int, pairs: int, threads: int) -> None:
        core.repeat_allocations(pool, num_bytes, pairs, threads)

    return repeat


def address(library: ctypes.CDLL, name: str) -> int:
    """Where a function of a library is."""
    found = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    assert found is not None
    return found


def symbol_functions() -> Functions:
    """What torch calls."""
    library = ctypes.CDLL(core.__file__)
    names = "pyparallel_torch_allocate", "pyparallel_torch_free"
    return Functions(*(address(library, name) for name in names), of_torch=True)


def library_functions() -> Functions:
    """The C library's."""
    library = ctypes.CDLL(None)
    return Functions(address(library, "malloc"), address(library, "free"))


def torch_functions() -> Functions:
    """c10::alloc_cpu and c10::free_cpu, behind every CPU tensor; malloc where torch hides them."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
        names = "_ZN3c109alloc_cpuEm", "_ZN3c108free_cpuEPv"
        return Functions(*(address(library, name) for name in names))
    return library_functions()


if __name__ == "__main__":
    sys.exit(main())
