"""The models that make_traces.py trains and serves."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def linear(before: int, after: int, dtype: torch.dtype) -> nn.Linear:
    return nn.Linear(before, after, bias=False, dtype=dtype)


def convolution(before: int, after: int, side: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, side, stride, side // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


class Block(nn.Module):
    """A layer of a decoder: attention and a gated MLP, as Llama has them."""

    def __init__(self, width: int, heads: int, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.RMSNorm(width, dtype=dtype) for _ in range(2))
        self.query, self.key, self.value, self.out = (linear(width, width, dtype) for _ in range(4))
        self.gate, self.up = (linear(width, hidden, dtype) for _ in range(2))
        self.down = linear(hidden, width, dtype)

    def forward(self, x: Tensor, cache: list[Tensor] | None = None) -> Tensor:
        y = self.norms[0](x)
        query, key, value = (self._heads(f(y)) for f in (self.query, self.key, self.value))
        if cache is not None:
            if cache:
                key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            cache[:] = key, value
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=x.shape[1] > 1)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norms[1](x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Decoder(nn.Module):
    def __init__(
        self,
        layers: int,
        width: int,
        heads: int,
        hidden: int,
        vocabulary: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, dtype=dtype)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dtype) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False, dtype=dtype)
        self.checkpointed = False

    def forward(self, tokens: Tensor, caches: list[list[Tensor]] | None = None) -> Tensor:
        x = self.embed(tokens)
        for i, block in enumerate(self.blocks):
            if self.checkpointed:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x, caches[i] if caches is not None else None)
        return self.head(x)


class Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(before, after, 3, stride), nn.ReLU(), convolution(after, after, 3, 1)
        )
        same = (before, stride) == (after, 1)
        self.skip = nn.Identity() if same else convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.skip(x))


def resnet18(classes: int = 100) -> nn.Module:
    layers: list[nn.Module] = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    before = 64
    for i, width in enumerate((64, 128, 256, 512)):
        layers += [Residual(before, width, 1 + (i > 0)), Residual(width, width, 1)]
        before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def small_cnn() -> nn.Module:
    widths, layers = (3, 32, 64, 128, 256), []
    for before, after in pairwise(widths):
        layers += [
            nn.Conv2d(before, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 16, 100))
