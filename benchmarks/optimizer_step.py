"""What the optimizers' benchmarks share: ours against torch's fused, first verified in float64."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

import pyparallel
from benchmarks import command
from benchmarks.results import Row, Target
from pyparallel import amp
from pyparallel.cli.timer import COPY_BYTES, Contestant

HYPER: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 1e-3},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "Adagrad": {"lr": 1e-3},
}
STATES = {"AdamW": 2, "SGD": 1, "Adagrad": 1}
STATE_BYTES = {"fp32": 4, "bf16": 2}
MAX_NORM = 1.0
VERIFIED_STEPS = 3
SAMPLES_PER_TENSOR = 4096

Master = Literal["fp32"] | None


def run(
    name: str, parser: argparse.ArgumentParser, *, arguments: Sequence[str] | None, target: Target
) -> int:
    """One benchmark from its command line to its table.

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
    parser: argparse.ArgumentParser,
    *,
    tensors: str,
    dtype: str,
    master: str = "none",
    optimizer: str = "AdamW",
    state_dtype: str = "fp32",
    scaled: bool = False,
) -> None:
    """Adds the options that say what is stepped, with their defaults."""
    parser.add_argument("--optimizer", choices=HYPER, default=optimizer)
    parser.add_argument("--state-dtype", choices=STATE_BYTES, default=state_dtype)
    parser.add_argument(
        "--scaled",
        action=argparse.BooleanOptionalAction,
        default=scaled,
        help="with a GradScaler, and clipped",
    )
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
    own_grads = [grad.clone() for grad in grads] if options.scaled else grads
    sides = [
        _parameters([param.clone() for param in params], grads),
        _parameters(params, own_grads),
    ]
    cls, hyper = options.optimizer, HYPER[options.optimizer]
    max_norm = MAX_NORM if options.scaled else None
    ours = getattr(pyparallel.optim, cls)(
        sides[0], **hyper, master=master, state_dtype=options.state_dtype, max_norm=max_norm
    )
    peer = getattr(torch.optim, cls)(sides[1], **hyper, fused=True)
    steps = (ours.step, peer.step)
    if options.scaled:
        steps = (_scaled_step(ours), _scaled_peer_step(peer, sides[1]))
    timer = command.timer(options)
    check = verification(sides, grads, steps=steps, options=options)

    def verify_then_share() -> None:
        check()
        share_memory(ours, peer)

    label = label_of(options, master)
    with command.progress(label, timer) as advance:
        measurement = timer.compare(
            [Contestant("ours", steps[0]), Contestant("peer", steps[1])],
            verify=verify_then_share,
            copied_bytes=COPY_BYTES,
            advance=advance,
        )
    numel = sum(param.numel() for param in params)
    ours_bytes, peer_bytes = bytes_per_parameter(options, master)
    details = {"bytes per parameter": ours_bytes, "of the peer": peer_bytes}
    return Row(
        label=label,
        peer_name="torch fused" + (" without master" if master else ""),
        target=target,
        num_bytes=ours_bytes * numel,
        details=details if ours_bytes != peer_bytes else {},
        **measurement.against("peer", ours="ours"),
    )


def label_of(options: argparse.Namespace, master: Master) -> str:
    """What is stepped, in words."""
    with_master = " with fp32 master" if master else ""
    states = f" with {options.state_dtype} states" if options.state_dtype != "fp32" else ""
    scaled = ", scaled and clipped" if options.scaled else ""
    return f"{options.optimizer} {options.dtype}{with_master}{states}{scaled}, {options.tensors}"


def _scaled_step(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
    """Unscale, clip and step at once."""
    device = optimizer.param_groups[0]["params"][0].device.type
    scaler = amp.GradScaler(device, init_scale=1.0, growth_interval=1 << 30)
    scaler.scale(torch.zeros((), device=device))  # makes the scale, as scaling a loss does

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return step


def _scaled_peer_step(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor]
) -> Callable[[], object]:
    """Torch's three calls."""
    device = params[0].device.type
    scaler = torch.amp.GradScaler(device, init_scale=1.0, growth_interval=1 << 30)
    scaler.scale(torch.zeros((), device=device))

    def step() -> None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        scaler.step(optimizer)
        scaler.update()

    return step


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


def bytes_per_parameter(options: argparse.Namespace, master: Master) -> tuple[int, int]:
    """Bytes that a step reads and writes per parameter, ours and the peer's.

    Both read the gradient and read and write the parameter and the states. The peer's states have
    the parameter's dtype. A master is read and written in place of the parameter, which then is
    only written. Clipping and unscaling read the gradient once more here; the peer reads and writes
    it twice, and reads it for the norm.
    """
    size, states = command.DTYPES[options.dtype].itemsize, STATES[options.optimizer]
    moments_and_master = 2 * states * STATE_BYTES[options.state_dtype] + (8 if master else 0)
    ours = size + (size if master else 2 * size) + moments_and_master
    peer = 3 * size + 2 * size * states
    if options.scaled:
        ours, peer = ours + size, peer + 5 * size
    return ours, peer


def verification(
    sides: Sequence[Sequence[Tensor]],
    grads: Sequence[Tensor],
    *,
    steps: Sequence[Callable[[], object]],
    options: argparse.Namespace,
) -> Callable[[], None]:
    """Makes a check that takes a few steps on both sides and compares a sample of every tensor.

    The reference is torch's unfused optimizer on the sample in float64.

    Args:
        sides: Parameters of ours and of the peer, with equal values.
        grads: Gradients of either.
        steps: The sides' steps.
        options: What is stepped.
    """

    def verify() -> None:
        reference = nn.Parameter(sample(sides[0]))
        factor = 1.0
        if options.scaled:
            norm = torch.stack([grad.double().norm() for grad in grads]).norm()
            factor = min(1.0, MAX_NORM / (norm.item() + 1e-6))
        reference.grad = sample(grads) * factor
        cls, hyper = getattr(torch.optim, options.optimizer), HYPER[options.optimizer]
        optimizer = cls([reference], **hyper, foreach=False)
        for _ in range(VERIFIED_STEPS):
            optimizer.step()
        exact = options.master == "fp32"
        for params, step, is_exact, name in zip(
            sides, steps, (exact, False), ("ours", "the peer"), strict=True
        ):
            for _ in range(VERIFIED_STEPS):
                step()
            torch.testing.assert_close(
                sample(params),
                reference.detach(),
                **tolerance(params[0].dtype, exact=is_exact, lr=hyper["lr"]),
                msg=lambda text, name=name: f"{options.optimizer} of {name}: {text}",
            )

    return verify


def sample(tensors: Sequence[Tensor]) -> Tensor:
    """Elements spread over every tensor, in float64."""
    taken = []
    for tensor in tensors:
        stride = max(1, tensor.numel() // SAMPLES_PER_TENSOR) | 1  # odd: every lane of a vector
        taken.append(tensor.detach().view(-1)[::stride].double())
    return torch.cat(taken)


def tolerance(dtype: torch.dtype, *, exact: bool, lr: float) -> dict[str, float]:
    """How far the float64 reference may be after VERIFIED_STEPS steps.

    Args:
        dtype: Of the parameters.
        exact: Whether a master keeps what 16 bits cannot. Without one a step may be lost entirely
            in rounding, so that only its size is certain.
        lr: Size of a step.
    """
    if dtype == torch.float32:
        return {"rtol": 1e-5, "atol": 1e-6}
    rounding = torch.finfo(dtype).eps
    if exact:
        return {"rtol": rounding, "atol": 1e-6}
    return {"rtol": VERIFIED_STEPS * rounding, "atol": 1.1 * VERIFIED_STEPS * lr}


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
