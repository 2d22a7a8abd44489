"""Adagrad on a few large float32 tensors, against torch's fused Adagrad."""

import sys
from collections.abc import Sequence

from benchmarks import command, optimizer_step
from benchmarks.results import Target

NAME = "adagrad"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    parser = command.parser(NAME, __doc__, rounds=40)
    optimizer_step.add_arguments(parser, tensors="4x[4096,4096]", dtype="fp32", optimizer="Adagrad")
    return optimizer_step.run(NAME, parser, arguments=arguments, target=Target("at least", 1.5))


if __name__ == "__main__":
    sys.exit(main())
