"""What data parallelism and AdamW add to a training step of a GPT, against torch's own parts.

Three copies of one model take turns, step by step, on the same batches:

    ours   forward, backward in pyparallel.DataParallel, pyparallel.optim.AdamW, zero_grad
    peer   forward, backward in DistributedDataParallel, torch.optim.AdamW(fused=True), zero_grad
    bare   forward, backward, zero_grad; nothing leaves the process

The overhead is what a step takes longer than the bare one of the same round. Shapes: B sequences,
T positions.
"""
# ruff: noqa: N806 (names end in their tensor's shape)

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import pyparallel
from benchmarks import command, ranks
from benchmarks.results import Row, Target
from examples.gpt.model import GPT, GPTConfig
from pyparallel.cli.timer import Contestant, Measurement, Spread

NAME = "train_step"
OURS, PEER, BARE = "ours", "peer", "bare"
LEARNING_RATE = 1e-3
NUM_BATCHES = 8
VERIFIED_STEPS = 3
TARGET = Target("at most", 0.45)


class Training:
    """One of the three models, and where it is in the batches."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        batches: Sequence[tuple[Tensor, Tensor]],
    ) -> None:
        self.model = model
        self.params = list(model.parameters())
        self._optimizer = optimizer
        self._batches = batches
        self._next = 0

    def forward_backward(self) -> None:
        """Computes the gradients of the next batch."""
        tokens_BT, targets_BT = self._batches[self._next]
        self._next = (self._next + 1) % len(self._batches)
        _, loss = self.model(tokens_BT, targets_BT)
        loss.backward()

    def update(self) -> None:
        """Steps, if there is an optimizer, and forgets the gradients."""
        if self._optimizer is not None:
            self._optimizer.step()
        self.model.zero_grad(set_to_none=True)

    def step(self) -> None:
        """What is timed."""
        self.forward_backward()
        self.update()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; see `--help`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = command.parser(NAME, __doc__, rounds=42)
    add_arguments(parser)
    ranks.add_arguments(parser, world_sizes=[2])
    options = parser.parse_args(arguments)

    def measure(joined: ranks.ProcessRanks) -> list[Row]:
        default = command.is_default(options, parser) and joined.world_size == 2
        row = measure_overhead(
            joined,
            options,
            make_trainings(joined, options),
            peer_name=f"DDP, {joined.peer_name}, fused AdamW",
            what="step minus bare forward+backward",
            target=TARGET if default else None,
        )
        return [row]

    return ranks.run(NAME, options, arguments, measure)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is trained, with their defaults."""
    sizes = {"layers": 6, "width": 384, "heads": 6, "context": 256, "characters": 65}
    for name, size in {**sizes, "batch": 4, "tokens": 64}.items():
        parser.add_argument(f"--{name}", type=command.positive, default=size)


def measure_overhead(
    joined: ranks.ProcessRanks,
    options: argparse.Namespace,
    trainings: Mapping[str, Training],
    *,
    peer_name: str,
    what: str,
    target: Target | None,
) -> Row:
    """Verifies that ours and the peer train alike and measures all three.

    Args:
        joined: Who trains.
        options: With those of `add_arguments`.
        trainings: Ours, the peer and the bare one, by these names.
        peer_name: Of the peer.
        what: The row's number, in words.
        target: To reach.
    """
    timer = command.timer(options, ranks=joined)
    numel = sum(param.numel() for param in trainings[BARE].params)
    label = f"GPT of {numel / 1e6:.1f} M parameters, {joined.world_size} ranks"
    with command.progress(label, timer, visible=joined.context.rank == 0) as advance:
        measurement = timer.compare(
            [Contestant(name, training.step) for name, training in trainings.items()],
            verify=lambda: verify(trainings[OURS], trainings[PEER]),
            advance=advance,
        )
    work = f"{options.batch}x{options.tokens} tokens each: {what}"
    return overhead_row(f"{label}, {work}", peer_name, measurement, target=target)


def overhead_row(
    label: str, peer_name: str, measurement: Measurement, *, target: Target | None
) -> Row:
    """The row of the overheads.

    Its ratio is that of the median overheads: a round's own ratio is one of two small differences
    of large times, and only says how far the rounds spread.
    """
    ours = Spread.of(overheads := measurement.difference(OURS, BARE))
    peer = Spread.of(peer_overheads := measurement.difference(PEER, BARE))
    by_round = Spread.of(a / b for a, b in zip(overheads, peer_overheads, strict=True))
    steps = {f"{name} step": measurement.time(name).median for name in (OURS, PEER, BARE)}
    return Row(
        label=label,
        peer_name=peer_name,
        ours=ours,
        peer=peer,
        ratio=Spread(ours.median / peer.median, by_round.p10, by_round.p90),
        target=target,
        details={name: f"{1e3 * seconds:.1f} ms" for name, seconds in steps.items()},
    )


def make_trainings(joined: ranks.ProcessRanks, options: argparse.Namespace) -> dict[str, Training]:
    """Three copies of one model with the same batches."""
    bare, batches = make_model(joined, options)
    settings: dict[str, Any] = {"lr": LEARNING_RATE}
    # DistributedDataParallel is faster with gradients that are views of its buckets.
    peer = DistributedDataParallel(copy.deepcopy(bare), gradient_as_bucket_view=True)
    ours = pyparallel.DataParallel(copy.deepcopy(bare))
    optimizers = {
        OURS: pyparallel.optim.AdamW(ours.parameters(), **settings),
        PEER: torch.optim.AdamW(peer.parameters(), fused=True, **settings),
    }
    return {
        name: Training(model, optimizers.get(name), batches)
        for name, model in ((OURS, ours), (PEER, peer), (BARE, bare))
    }


def make_model(
    joined: ranks.ProcessRanks, options: argparse.Namespace
) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A model, the same on all ranks, and batches, which differ between them."""
    device = joined.context.device
    torch.manual_seed(options.seed)
    config = GPTConfig(
        vocabulary_size=options.characters,
        context=options.context,
        layers=options.layers,
        heads=options.heads,
        width=options.width,
    )
    model = GPT(config).to(device)
    generator = torch.Generator().manual_seed(options.seed + joined.context.rank)
    shape = (NUM_BATCHES, options.batch, options.tokens + 1)
    text = torch.randint(options.characters, shape, generator=generator).to(device)
    return model, [(window[:, :-1], window[:, 1:]) for window in text]


def verify(ours: Training, peer: Training) -> None:
    """Both must have the same gradients and the same parameters over a few steps.

    Raises:
        AssertionError: With the first difference.
    """
    for step in range(VERIFIED_STEPS):
        for training in (ours, peer):
            training.forward_backward()
        grads = ([param.grad for param in training.params] for training in (ours, peer))
        torch.testing.assert_close(
            *grads, rtol=1e-3, atol=1e-5, msg=lambda text, step=step: f"gradient {step}: {text}"
        )
        for training in (ours, peer):
            training.update()
        torch.testing.assert_close(
            ours.params,
            peer.params,
            rtol=1e-4,
            atol=LEARNING_RATE / 10,
            msg=lambda text, step=step: f"parameters after step {step}: {text}",
        )


if __name__ == "__main__":
    sys.exit(main())
