"""`python -m pyparallel bench optim`: an optimizer's step beside its peers, by turns in one run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from pyparallel.cli.arguments import DTYPES, SentenceParser, TensorList, positive, tensor_list
from pyparallel.cli.peers import NAMES, Entrant, bytes_per_parameter, entrants
from pyparallel.cli.timer import COPY_BYTES, Contestant, Measurement, Timer, WrongResultError

VERIFIED_STEPS = 3


def main(arguments: Sequence[str]) -> int:
    """Runs the command; 1 and a sentence if there is nothing to print."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("pyparallel bench optim: --device cuda: torch sees no GPU here", file=sys.stderr)
        return 1
    try:
        rows = [row for name in options.optimizer for row in _measure(name, options)]
    except (WrongResultError, ValueError, TypeError) as error:
        print(f"pyparallel bench optim: {error}", file=sys.stderr)
        return 1
    _print(rows, options)
    if options.json:
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")
    return 0


@dataclass(frozen=True)
class Row:
    """One contestant's numbers.

    Attributes:
        optimizer: its algorithm.
        contestant: whose implementation.
        milliseconds: median of the rounds.
        nanoseconds_per_parameter: the same over the number of parameters.
        gigabytes_per_second: by the bytes that its step must move; 0 where we do not know them.
        share_of_copy: of the bandwidth of a copy in the same run.
        ratio: its time over ours, median of the rounds' ratios.
    """

    optimizer: str
    contestant: str
    milliseconds: float
    nanoseconds_per_parameter: float
    gigabytes_per_second: float
    share_of_copy: float
    ratio: float


def _parser() -> argparse.ArgumentParser:
    parser = SentenceParser(
        prog="python -m pyparallel bench optim",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--optimizer", nargs="+", choices=NAMES, default=["adamw"], help="one or several"
    )
    parser.add_argument(
        "--tensors",
        type=tensor_list,
        default=TensorList("4x[4096,4096]"),
        help="how many of which shape, several with + between",
    )
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the parameters")
    parser.add_argument("--master", choices=("fp32", "remainder"), help="what ours keeps")
    parser.add_argument("--state-dtype", choices=("fp32", "bf16", "8bit"), default="fp32")
    parser.add_argument("--stochastic-rounding", action="store_true")
    parser.add_argument(
        "--amp", action="store_true", help="with a GradScaler and gradients clipped to norm 1"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=positive, default=20, help="timed rounds")
    parser.add_argument("--threads", type=positive, help="of torch and of our kernels")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to save the numbers")
    return parser


def _measure(name: str, options: argparse.Namespace) -> list[Row]:
    dtype = DTYPES[options.dtype]
    torch.manual_seed(0)
    device = torch.device(options.device)
    values = [torch.randn(s, device=device).to(dtype) for s in options.tensors.shapes]
    grads = [torch.randn(s, device=device).to(dtype) for s in options.tensors.shapes]
    found = entrants(name, values, grads, options)
    timer = Timer(rounds=options.rounds, device=options.device)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task(f"{name} {options.tensors}", total=timer.rounds + timer.warm_up)
        measured = timer.compare(
            [Contestant(one.name, one.step) for one in found],
            verify=_verification(name, found, values, options),
            copied_bytes=COPY_BYTES,
            advance=lambda: progress.update(task, advance=1, refresh=True),
        )
    numel = sum(value.numel() for value in values)
    return [_row(name, one, found[0].name, measured, numel, options) for one in found]


def _row(
    name: str,
    entrant: Entrant,
    ours: str,
    measured: Measurement,
    numel: int,
    options: argparse.Namespace,
) -> Row:
    seconds = measured.time(entrant.name).median
    num_bytes = bytes_per_parameter(name, options, ours=entrant.name == ours) * numel
    if not entrant.is_known:
        num_bytes = 0
    bandwidth = num_bytes / seconds
    return Row(
        optimizer=name,
        contestant=entrant.name,
        milliseconds=seconds * 1e3,
        nanoseconds_per_parameter=seconds * 1e9 / numel,
        gigabytes_per_second=bandwidth / 1e9,
        share_of_copy=bandwidth / (measured.copy_bandwidth() or float("inf")),
        ratio=measured.ratio(entrant.name, ours).median,
    )


def _verification(
    name: str, found: Sequence[Entrant], values: Sequence[Tensor], options: argparse.Namespace
) -> Callable[[], None]:
    """All contestants take a few steps and must end where torch's plain loop does.

    Where 16 bits or narrow moments lose more than that, only the size of the steps is certain.
    """
    start = _sample(values)
    wide = options.dtype in ("fp32", "fp64") and options.state_dtype == "fp32"
    exact = wide and name != "muon"  # which multiplies in bfloat16
    rounding = VERIFIED_STEPS * torch.finfo(DTYPES[options.dtype]).eps * start.abs()

    def verify() -> None:
        ends = {}
        for one in found:
            for _ in range(VERIFIED_STEPS):
                one.step()
            ends[one.name] = _sample(one.params)
        reference = ends.get("torch for-loop")
        if reference is None:
            return
        furthest = (reference - start).abs().max()
        bound = 1e-3 * furthest + rounding if exact else furthest + rounding
        for who, own in ends.items():
            excess = ((own - reference).abs() - bound).max()
            assert excess <= 0, (
                f"{who} moved the parameters differently from torch: {excess:.2g} more than "
                f"rounding explains, after {VERIFIED_STEPS} steps of {furthest:.2g} in all"
            )

    return verify


def _sample(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten()[:4096].double().cpu() for tensor in tensors])


def _print(rows: Sequence[Row], options: argparse.Namespace) -> None:
    console = Console(highlight=False)
    kept = " ".join(
        str(value)
        for value in (options.dtype, options.master and f"master {options.master}")
        if value
    )
    amp = ", scaled and clipped" if options.amp else ""
    title = f"{options.tensors}, {kept}, states {options.state_dtype}{amp}, {options.device}"
    table = Table(title=title)
    for header in ("optimizer", "contestant"):
        table.add_column(header, no_wrap=True)
    for header in ("ms", "ns/param", "GB/s", "% of copy", "time/ours"):
        table.add_column(header, justify="right")
    for row in rows:
        known = row.gigabytes_per_second > 0
        table.add_row(
            row.optimizer,
            row.contestant,
            f"{row.milliseconds:.3g}",
            f"{row.nanoseconds_per_parameter:.3g}",
            f"{row.gigabytes_per_second:.3g}" if known else "",
            f"{100 * row.share_of_copy:.0f}" if known else "",
            f"{row.ratio:.2f}",
        )
    console.print(table)
