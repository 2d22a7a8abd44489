"""The model: its size, its causality, what it refuses."""

import math

import pytest
import torch

from gpt.model import GPT, GPTConfig

SMALL = GPTConfig(vocabulary_size=11, context=12, layers=2, heads=2, width=16)


def test_the_benchmark_size_has_about_10_7_million_parameters():
    config = GPTConfig(vocabulary_size=65, context=256, layers=6, heads=6, width=384)
    count = sum(parameter.numel() for parameter in GPT(config).parameters())
    assert count == pytest.approx(10.7e6, rel=0.01)


def test_a_position_depends_on_what_came_before_and_on_nothing_after():
    seed = torch.seed()
    model = GPT(SMALL)
    tokens = torch.randint(11, (3, 12))
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 11
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7]), f"seed {seed}"
    assert not torch.isclose(before[:, 7:], after[:, 7:]).all(dim=-1).any(), f"seed {seed}"


def test_the_loss_is_the_mean_cross_entropy_of_the_logits_and_reaches_every_parameter():
    seed = torch.seed()
    model = GPT(SMALL)
    tokens, targets = torch.randint(11, (2, 5, 12))
    logits, loss = model(tokens, targets)
    chosen = logits.double().log_softmax(dim=-1).gather(-1, targets[..., None])
    torch.testing.assert_close(loss.double(), -chosen.mean(), msg=f"seed {seed}")
    assert abs(loss.item() - math.log(11)) < 0.2
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_generation_goes_on_from_its_start_past_the_context_and_repeats_with_its_seed():
    model = GPT(SMALL)
    start = torch.tensor([[1, 2, 3]])

    def write(temperature, seed):
        generator = torch.Generator().manual_seed(seed)
        return model.generate(start, num_tokens=30, temperature=temperature, generator=generator)

    written = write(1.0, 1)
    assert written.shape == (1, 33)
    assert torch.equal(written[:, :3], start)
    assert torch.equal(written, write(1.0, 1))
    assert not torch.equal(written, write(1.0, 2))
    assert torch.equal(write(0.0, 1), write(0.0, 2)), "temperature 0 leaves nothing to chance"


def test_impossible_sizes_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match=r"width is 16 and heads 3"):
        GPTConfig(vocabulary_size=11, context=12, layers=2, heads=3, width=16)
    with pytest.raises(ValueError, match=r"layers must be at least 1, but is 0"):
        GPTConfig(vocabulary_size=11, context=12, layers=0, heads=2, width=16)
    with pytest.raises(ValueError, match=r"13 positions do not fit a context of 12"):
        GPT(SMALL)(torch.zeros(1, 13, dtype=torch.int64))
