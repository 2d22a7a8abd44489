"""AdamW on bfloat16 parameters with a float32 master, against torch's fused AdamW without one."""

import sys
from collections.abc import Sequence

from benchmarks import command, optimizer_step
from benchmarks.results import Target

NAME = "adamw_bf16"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    parser = command.parser(NAME, __doc__, rounds=40)
    optimizer_step.add_arguments(parser, tensors="4x[4096,4096]", dtype="bf16", master="fp32")
    return optimizer_step.run(NAME, parser, arguments=arguments, target=Target("at least", 1.5))


if __name__ == "__main__":
    sys.exit(main())
