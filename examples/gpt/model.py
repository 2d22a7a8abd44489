"""The model: a decoder-only transformer over characters, in plain torch.

Shapes: B sequences in the batch, T positions, C width, H heads, D = C / H width of a head,
V characters in the vocabulary.
"""
# ruff: noqa: N803, N806 (names end in their tensor's shape)

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclasses.dataclass(frozen=True)
class GPTConfig:
    """The sizes that fix every parameter's shape.

    Args:
        vocabulary_size: Number of distinct characters.
        context: Largest number of positions that attention looks back over.
        layers: Number of blocks.
        heads: Attention heads of a block; divides `width`.
        width: Features of a position.

    Raises:
        ValueError: A size is below one, or `heads` does not divide `width`.
    """

    vocabulary_size: int
    context: int
    layers: int
    heads: int
    width: int

    def __post_init__(self) -> None:
        for name, size in dataclasses.asdict(self).items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, but is {size}")
        if self.width % self.heads:
            raise ValueError(
                f"heads must divide width, but width is {self.width} and heads {self.heads}"
            )


class Attention(nn.Module):
    """Causal self-attention: a position sees itself and what came before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width, bias=False)
        self.output = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Mixes positions: (B, T, C) -> (B, T, C)."""
        B, T, C = x_BTC.shape
        fused = self.query_key_value(x_BTC).view(B, T, 3, self.heads, C // self.heads)
        query_BHTD, key_BHTD, value_BHTD = fused.permute(2, 0, 3, 1, 4).unbind(0)
        mixed_BHTD = functional.scaled_dot_product_attention(
            query_BHTD, key_BHTD, value_BHTD, is_causal=True
        )
        return self.output(mixed_BHTD.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """One pre-norm layer: attention, then a GELU network of four times the width."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, bias=False)
        self.attention = Attention(config)
        self.network_norm = nn.LayerNorm(config.width, bias=False)
        self.expand = nn.Linear(config.width, 4 * config.width, bias=False)
        self.contract = nn.Linear(4 * config.width, config.width, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """Adds both parts to the residual stream: (B, T, C) -> (B, T, C)."""
        x_BTC = x_BTC + self.attention(self.attention_norm(x_BTC))
        hidden = functional.gelu(self.expand(self.network_norm(x_BTC)))
        return x_BTC + self.contract(hidden)


class GPT(nn.Module):
    """Embeddings, blocks, a norm, and an output layer that shares the embedding's weight.

    Args:
        config: The sizes. Parameters are drawn from torch's default generator: seed it first.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.characters = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self._draw_parameters()

    def _draw_parameters(self) -> None:
        # Each block adds to the residual stream twice; scaling those layers keeps its variance
        # independent of the depth (GPT-2, section 2.3).
        residual_scale = 1 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            added = name.endswith(("attention.output.weight", "contract.weight"))
            nn.init.normal_(parameter, std=0.02 * (residual_scale if added else 1))

    def forward(
        self, tokens_BT: Tensor, targets_BT: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Predicts the character after every position.

        Args:
            tokens_BT: Characters as int64, (B, T) with T at most `config.context`.
            targets_BT: The characters that follow, (B, T); None when only the logits are wanted.

        Returns:
            Logits (B, T, V), or the pair of logits and mean cross-entropy in nats per character.

        Raises:
            ValueError: T is larger than the context.
        """
        T = tokens_BT.shape[1]
        if self.config.context < T:
            raise ValueError(f"{T} positions do not fit a context of {self.config.context}")
        positions_T = torch.arange(T, device=tokens_BT.device)
        x_BTC = self.characters(tokens_BT) + self.positions(positions_T)
        for block in self.blocks:
            x_BTC = block(x_BTC)
        logits_BTV = functional.linear(self.norm(x_BTC), self.characters.weight)
        if targets_BT is None:
            return logits_BTV
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())
        return logits_BTV, loss

    @torch.no_grad()
    def generate(
        self, tokens_BT: Tensor, *, num_tokens: int, temperature: float, generator: torch.Generator
    ) -> Tensor:
        """Continues each sequence by `num_tokens` sampled characters.

        Args:
            tokens_BT: The beginning, int64 (B, T) with T at least 1.
            num_tokens: Characters to add.
            temperature: Divides the logits; 0 takes the likeliest character.
            generator: Source of randomness, on the device of `tokens_BT`.

        Returns:
            The beginning and its continuation, (B, T + num_tokens).
        """
        for _ in range(num_tokens):
            logits_BV = self(tokens_BT[:, -self.config.context :])[:, -1].float()
            if temperature == 0:
                next_B1 = logits_BV.argmax(dim=-1, keepdim=True)
            else:
                probabilities_BV = functional.softmax(logits_BV / temperature, dim=-1)
                next_B1 = torch.multinomial(probabilities_BV, 1, generator=generator)
            tokens_BT = torch.cat((tokens_BT, next_B1), dim=1)
        return tokens_BT
