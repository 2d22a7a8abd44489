"""Models and batches that the data-parallel tests share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Mixed(nn.Module):
    """Tied weights, a buffer, channels_last convolution, an odd bias, frozen and bfloat16 parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(8)
        self.embed = nn.Linear(8, 40, bias=False)
        self.tied = nn.Linear(8, 40)
        self.tied.weight = self.embed.weight
        self.wide = nn.Linear(40, 10_000)  # more than one bucket of 1 MiB
        self.narrow = nn.Linear(10_000, 7).to(torch.bfloat16)
        self.frozen = nn.Linear(7, 7).requires_grad_(False)
        self.last = nn.Linear(7, 1)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.norm(self.conv(image)).mean((2, 3))
        hidden = torch.tanh(self.embed(pooled) + self.tied(pooled))
        hidden = self.narrow(torch.tanh(self.wide(hidden)).to(torch.bfloat16)).float()
        return self.last(self.frozen(hidden)).square().mean()


class TwoBranches(nn.Module):
    """Uses the branches it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(4, 4)
        self.right = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)

    def forward(self, x: Tensor, branches: str) -> Tensor:
        for name in branches.split():
            x = getattr(self, name)(x)
        return x.sum()


def images(seed: int, rank: int, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1000 * rank + step)
    return torch.randn(5, 3, 6, 6, generator=generator)
