"""AdamW scaled and clipped in one call, against torch's unscale_, clip_grad_norm_ and step."""

import sys
from collections.abc import Sequence

from benchmarks import command, optimizer_step
from benchmarks.results import Target

NAME = "adamw_amp"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    parser = command.parser(NAME, __doc__, rounds=40)
    optimizer_step.add_arguments(parser, tensors="4x[4096,4096]", dtype="fp32", scaled=True)
    return optimizer_step.run(NAME, parser, arguments=arguments, target=Target("at least", 2))


if __name__ == "__main__":
    sys.exit(main())
