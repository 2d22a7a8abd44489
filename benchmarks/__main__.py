"""`python -m benchmarks`: runs them one after the other and puts their numbers into README."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import NAMES, RESULTS, ROOT, command, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names, or all; 1 if a benchmark or the report fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; or all")
    parser.add_argument("--json", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file of the table")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--rounds", type=command.positive, help="each benchmark has its own default"
    )
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(NAMES)
    if unknown:
        parser.error(f"there is no benchmark {min(unknown)!r}, only {', '.join(NAMES)}")
    handed_on = ["--json", str(options.json.resolve()), "--device", options.device]
    if options.rounds is not None:
        handed_on += ["--rounds", str(options.rounds)]
    failed = [name for name in options.names or NAMES if not run(name, handed_on)]
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    written = report.main(["--json", str(options.json), "--readme", str(options.readme)])
    return 1 if failed else written


def run(name: str, arguments: Sequence[str]) -> bool:
    """Runs one benchmark in a process of its own; whether it succeeded."""
    module = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    return subprocess.run(module, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
