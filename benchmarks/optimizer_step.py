"""What the AdamW benchmarks share: ours against torch's fused AdamW, first verified in float64."""

import argparse
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

import pyparallel
from benchmarks import command
from benchmarks.results import Row, Target
from pyparallel.cli.timer import COPY_BYTES, Contestant

LEARNING_RATE = 1e-3
VERIFIED_STEPS = 3
SAMPLES_PER_TENSOR = 4096

Master = Literal["fp32"] | None


def run(
    name: str, parser: argparse.ArgumentParser, *, arguments: Sequence[str] | None, target: Target
) -> int:
    """One AdamW benchmark from its command line to its table.

    Args:
        name: Of the benchmark.
        parser: Its parser, with the options of `add_arguments`.
        arguments: The command line; the process's own by default.
        target: To reach with the default options.
    """
    options = parser.parse_args(arguments)
    options.threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(options.threads)
    reached = target if command.is_default(options, parser) else None
    return command.run(name, options, lambda: [measure(options, target=reached)])


def add_arguments(
    parser: argparse.ArgumentParser, *, tensors: str, dtype: str, master: str = "none"
) -> None:
    """Adds the options that say what is stepped, with their defaults."""
    parser.add_argument("--tensors", type=command.tensor_list, default=command.TensorList(tensors))
    parser.add_argument("--dtype", choices=command.DTYPES, default=dtype, help="of the parameters")
    parser.add_argument(
        "--master", choices=("none", "fp32"), default=master, help="what ours keeps"
    )


def measure(options: argparse.Namespace, *, target: Target | None) -> Row:
    """Steps the same parameters with the same gradients by turns."""
    dtype = command.DTYPES[options.dtype]
    master: Master = "fp32" if options.master == "fp32" and dtype != torch.float32 else None
    generator = torch.Generator(options.device).manual_seed(options.seed)
    params, grads = (_draw(options, dtype, generator) for _ in range(2))
    sides = [_parameters([param.clone() for param in params], grads), _parameters(params, grads)]
    ours = pyparallel.optim.AdamW(sides[0], lr=LEARNING_RATE, master=master)
    peer = torch.optim.AdamW(sides[1], lr=LEARNING_RATE, fused=True)
    timer = command.timer(options)
    check = verification(sides, grads, steps=(ours.step, peer.step), master=master)

    def verify_then_share() -> None:
        check()
        share_memory(ours, peer)

    with_master = " with fp32 master" if master else ""
    label = f"AdamW {options.dtype}{with_master}, {options.tensors}"
    with command.progress(label, timer) as advance:
        measurement = timer.compare(
            [Contestant("ours", ours.step), Contestant("peer", peer.step)],
            verify=verify_then_share,
            copied_bytes=COPY_BYTES,
            advance=advance,
        )
    numel = sum(param.numel() for param in params)
    ours_bytes, peer_bytes = bytes_per_parameter(dtype, master)
    details = {"bytes per parameter": ours_bytes, "of the peer": peer_bytes}
    return Row(
        label=label,
        peer_name="torch fused" + (" without master" if master else ""),
        target=target,
        num_bytes=ours_bytes * numel,
        details=details if ours_bytes != peer_bytes else {},
        **measurement.against("peer", ours="ours"),
    )


def share_memory(ours: torch.optim.Optimizer, peer: torch.optim.Optimizer) -> None:
    """Lets both step the same tensors, where their dtypes allow.

    The same array may be 1.5 times slower to stream in one place of memory than in another; that
    shall favour neither.
    """
    for own, other in zip(
        ours.param_groups[0]["params"], peer.param_groups[0]["params"], strict=True
    ):
        other.data = own.data
        for key, value in peer.state[other].items():
            if ours.state[own][key].dtype == value.dtype:
                peer.state[other][key] = ours.state[own][key]


def bytes_per_parameter(dtype: torch.dtype, master: Master) -> tuple[int, int]:
    """Bytes that a step reads and writes per parameter, ours and the peer's.

    Both read the gradient and read and write the parameter and two moments. Our moments are always
    float32, the peer's have the parameter's dtype; the master is read and written in place of the
    parameter, which then is only written.
    """
    size = dtype.itemsize
    moments_and_master = 16 + (8 if master else 0)
    return size + (size if master else 2 * size) + moments_and_master, 7 * size


def verification(
    sides: Sequence[Sequence[Tensor]],
    grads: Sequence[Tensor],
    *,
    steps: Sequence[Callable[[], object]],
    master: Master,
) -> Callable[[], None]:
    """Makes a check that takes a few steps on both sides and compares a sample of every tensor.

    The reference is torch's unfused AdamW on the sample in float64.

    Args:
        sides: Parameters of ours and of the peer, with equal values.
        grads: Gradients of either.
        steps: The sides' steps.
        master: What ours keeps beside its parameters.
    """

    def verify() -> None:
        reference = nn.Parameter(sample(sides[0]))
        reference.grad = sample(grads)
        optimizer = torch.optim.AdamW([reference], lr=LEARNING_RATE, foreach=False)
        for _ in range(VERIFIED_STEPS):
            optimizer.step()
        for params, step, exact, name in zip(
            sides, steps, (master is not None, False), ("ours", "the peer"), strict=True
        ):
            for _ in range(VERIFIED_STEPS):
                step()
            torch.testing.assert_close(
                sample(params),
                reference.detach(),
                **tolerance(params[0].dtype, exact=exact),
                msg=lambda text, name=name: f"AdamW of {name}: {text}",
            )

    return verify


def sample(tensors: Sequence[Tensor]) -> Tensor:
    """Elements spread over every tensor, in float64."""
    taken = []
    for tensor in tensors:
        stride = max(1, tensor.numel() // SAMPLES_PER_TENSOR) | 1  # odd: every lane of a vector
        taken.append(tensor.detach().view(-1)[::stride].double())
    return torch.cat(taken)


def tolerance(dtype: torch.dtype, *, exact: bool) -> dict[str, float]:
    """How far the float64 reference may be after VERIFIED_STEPS steps.

    Args:
        dtype: Of the parameters.
        exact: Whether a master keeps what 16 bits cannot. Without one a step may be lost entirely
            in rounding, so that only its size is certain.
    """
    if dtype == torch.float32:
        return {"rtol": 1e-5, "atol": 1e-6}
    rounding = torch.finfo(dtype).eps
    if exact:
        return {"rtol": rounding, "atol": 1e-6}
    return {"rtol": VERIFIED_STEPS * rounding, "atol": 1.1 * VERIFIED_STEPS * LEARNING_RATE}


def _draw(
    options: argparse.Namespace, dtype: torch.dtype, generator: torch.Generator
) -> list[Tensor]:
    return [
        torch.randn(shape, generator=generator, device=options.device).to(dtype)
        for shape in options.tensors.shapes
    ]


def _parameters(values: Sequence[Tensor], grads: Sequence[Tensor]) -> list[nn.Parameter]:
    params = [nn.Parameter(value) for value in values]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    return params
