"""One model in training: its step, where the step's time goes, its validation.

Shapes: B sequences in the batch, T positions.
"""
# ruff: noqa: N806 (names end in their tensor's shape)

import contextlib
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gpt.history import Measurement
from gpt.settings import Settings
from gpt.text import Batch

FORWARD_BACKWARD = "forward+backward"
# DistributedDataParallel reduces within backward and does not say for how long.
FORWARD_BACKWARD_REDUCE = "forward+backward+reduce"
SPANS = {"pack": "pack", "reduce": "reduce", "wait": "waiting"}


class Training:
    """A model, wrapped for data parallelism, with its optimizer.

    Args:
        context: What `init` of pyparallel or of `gpt.torch_parts` gave.
        model: The wrapped model.
        optimizer: Its optimizer; the learning rate of its groups is set anew at every step.
        settings: The run's options.
    """

    def __init__(self, context: Any, model: Any, optimizer: Any, settings: Settings) -> None:
        self.context = context
        self.model = model
        self.optimizer = optimizer
        self.settings = settings
        self.precision: contextlib.AbstractContextManager[Any] = torch.autocast(
            context.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
        )

    def clock(self) -> float:
        """Seconds, read when the device has finished what it was given."""
        if self.context.device.type == "cuda":
            torch.cuda.synchronize(self.context.device)
        return time.perf_counter()

    def spans(self) -> dict[str, float] | None:
        """Seconds recorded so far by name, or None when the library records none."""
        return None if self.context.spans is None else self.context.spans.totals()

    def forward_backward(self, batch: Batch) -> Tensor:
        """Adds this batch's gradients and returns its loss, a scalar."""
        tokens_BT, targets_BT = (part.to(self.context.device) for part in batch)
        with self.precision:
            _, loss = self.model(tokens_BT, targets_BT)
        loss.backward()
        return loss.detach()

    def step(self, batch: Batch, *, step: int) -> Measurement:
        """Trains on one batch.

        Args:
            batch: Tokens and targets of this rank, (B, T) each.
            step: Number of the step from 0, for the learning rate.

        Returns:
            What this rank measured.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        before, start = self.spans(), self.clock()
        loss = self.forward_backward(batch)
        middle, within = self.clock(), self.spans()
        self.optimizer.step()
        self.optimizer.zero_grad()
        end, after = self.clock(), self.spans()
        parts = _parts(middle - start, end - middle, before, within, after)
        return Measurement(float(loss), end - start, parts)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> float:
        """Mean loss in nats per character over the batches of all ranks, the same on all ranks."""
        device = self.context.device
        total = torch.zeros(2, dtype=torch.float64, device=device)
        for tokens_BT, targets_BT in batches:
            with self.precision:
                _, loss = self.model.module(tokens_BT.to(device), targets_BT.to(device))
            total += torch.stack((loss.double(), torch.ones_like(total[0]))) * len(tokens_BT)
        self.context.communicator.all_reduce(total).wait()
        return float(total[0] / total[1])

    def mean_over_ranks(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Averages the measurements of the same steps over all ranks."""
        rows = [[one.loss, one.seconds, *one.parts.values()] for one in measurements]
        table = torch.tensor(rows, dtype=torch.float64, device=self.context.device)
        self.context.communicator.all_reduce(table, op="mean").wait()
        return [
            Measurement(loss, seconds, dict(zip(one.parts, parts, strict=True)))
            for one, (loss, seconds, *parts) in zip(measurements, table.tolist(), strict=True)
        ]


def learning_rate(settings: Settings, step: int) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the largest rate."""
    warm_up = min(1.0, (step + 1) / settings.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return settings.learning_rate * warm_up * (0.02 + 0.98 * cosine)


def _parts(
    backward_seconds: float,
    optimizer_seconds: float,
    before: dict[str, float] | None,
    within: dict[str, float] | None,
    after: dict[str, float] | None,
) -> dict[str, float]:
    """Takes the recorded spans out of the two halves of a step that were measured from outside."""
    if before is None or within is None or after is None:
        return {FORWARD_BACKWARD_REDUCE: backward_seconds, "optimizer": optimizer_seconds}
    spent = {}
    for span, name in SPANS.items():
        first = within.get(span, 0.0) - before.get(span, 0.0)
        second = after.get(span, 0.0) - within.get(span, 0.0)
        backward_seconds -= first
        optimizer_seconds -= second
        spent[name] = first + second
    return {
        FORWARD_BACKWARD: max(0.0, backward_seconds),
        "pack": spent["pack"],
        "reduce": spent["reduce"],
        "optimizer": max(0.0, optimizer_seconds),
        "waiting": spent["waiting"],
    }
