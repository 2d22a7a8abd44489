"""Muon computes what torch.optim.Muon computes, and loads its checkpoints and back."""

from __future__ import annotations

import copy

import pytest
import torch

from adam_reference import AdamReference, assert_follows, copies, give_random_grads
from pyparallel.optim import AdamW, Muon

SHAPES = [(5, 7), (7, 5), (5, 7), (64, 33), (64, 33), (1, 9), (9, 1), (1, 1), (130, 257)]

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


def random_matrices(dtype=torch.float32, shapes=SHAPES):
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def train(optimizers, *lists, steps=3):
    for step in range(steps):
        give_random_grads(*lists, scale=10.0 ** -(step % 3))
        for optimizer in optimizers:
            optimizer.step()


def assert_same(ours, theirs, params, twins, lr):
    """An update is a bfloat16 matrix of entries below 1.2 or so: two units of its last place."""
    for param, twin in zip(params, twins, strict=True):
        atol = 3 * lr * 2**-6 * max(1.0, param.shape[0] / param.shape[1]) ** 0.5
        torch.testing.assert_close(param, twin, rtol=1e-6, atol=atol)
        own, other = ours.state[param], theirs.state[twin]
        assert list(own) == list(other) == ["momentum_buffer"]
        torch.testing.assert_close(
            own["momentum_buffer"], other["momentum_buffer"], rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False, "weight_decay": 0.5, "momentum": 0.3},
        {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "momentum": 0.0},
        {"adjust_lr_fn": "original", "ns_coefficients": (2.0, -1.5, 0.5), "eps": 10.0},
    ],
    ids=["defaults", "plain momentum", "rms", "coefficients"],
)
def test_follows_torch(options, dtype):
    params = random_matrices(dtype)
    twins = copies(params)
    ours, theirs = Muon(params, lr=0.02, **options), torch.optim.Muon(twins, lr=0.02, **options)
    before = copies(params)
    train((ours, theirs), params, twins)
    rms = 0.2 * 257**0.5 if options.get("adjust_lr_fn") == "match_rms_adamw" else 1.0
    assert_same(ours, theirs, params, twins, lr=0.02 * rms)
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]
    assert (
        params[8] - before[8]
    ).norm() > 0.1 * 0.02 * 130**0.5  # the bound has something to bound


def test_tensor_lr_is_read_at_every_step():
    params = random_matrices()
    twins = copies(params)
    rate = torch.tensor(0.5)
    ours, theirs = Muon(params, lr=rate), torch.optim.Muon(twins, lr=rate)
    for value in (0.02, 0.01):
        rate.fill_(value)
        train((ours, theirs), params, twins, steps=1)
    assert_same(ours, theirs, params, twins, lr=0.02)


@pytest.mark.parametrize("source", [0, 1], ids=["from ours", "from torch"])
def test_a_run_goes_on_in_the_other_class(source):
    classes = Muon, torch.optim.Muon
    params = random_matrices()
    first = classes[source](params, lr=0.02)
    train([first], params)
    twins = copies(params)
    second = classes[1 - source](twins)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train((first, second), params, twins)
    pairs = (first, second, params, twins) if source == 0 else (second, first, twins, params)
    assert_same(*pairs, lr=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_parameters_keep_float32_momentum(dtype):
    params = random_matrices(dtype)
    wide = [param.detach().float().requires_grad_() for param in params]
    ours, theirs = Muon(params, lr=0.02, master="fp32"), Muon(wide, lr=0.02)
    for _ in range(3):
        give_random_grads(params)
        for param, twin in zip(params, wide, strict=True):
            twin.grad = param.grad.float()
        ours.step()
        theirs.step()
    for param, twin in zip(params, wide, strict=True):
        assert torch.equal(ours.state[param]["master"], twin)
        buffers = (o.state[p]["momentum_buffer"] for o, p in ((ours, param), (theirs, twin)))
        assert torch.equal(*buffers)
        assert torch.equal(param, twin.to(dtype))


def test_groups_without_muon_are_adamw():
    matrices, others = (
        random_matrices(),
        [torch.randn(s).requires_grad_() for s in ((9,), (), (4, 3))],
    )
    references = [AdamReference(p, lr=0.1, weight_decay=0.25, decoupled=True) for p in others]
    optimizer = Muon(
        [
            {"params": matrices},
            {"params": others, "use_muon": False, "lr": 0.1, "weight_decay": 0.25},
        ],
        lr=0.02,
    )
    twins = copies(matrices)
    alone = torch.optim.Muon(twins, lr=0.02)
    for _ in range(3):
        give_random_grads(matrices, twins)
        give_random_grads(others)
        for reference, param in zip(references, others, strict=True):
            reference.step(param.grad)
        optimizer.step()
        alone.step()
    assert_follows(optimizer, others, references)
    assert_same(optimizer, alone, matrices, twins, lr=0.02)
    assert set(optimizer.state[others[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    group = optimizer.param_groups[1]
    assert (group["betas"], group["eps"]) == ((0.9, 0.999), 1e-8)
    again = AdamW(copies(others), lr=0.1)  # the state is AdamW's
    checkpoint = optimizer.state_dict()
    places = range(len(matrices), len(matrices) + len(others))
    state = {i: checkpoint["state"][place] for i, place in enumerate(places)}
    again.load_state_dict({"state": state, "param_groups": again.state_dict()["param_groups"]})


@pytest.mark.parametrize("shape", [(5,), (), (2, 3, 4), (0,)])
def test_what_is_no_matrix_is_refused_with_its_place(shape):
    params = [torch.zeros(2, 2, requires_grad=True), torch.zeros(shape, requires_grad=True)]
    text = f"Muon only supports 2D parameters .* size: torch.Size.*{list(shape)}.*"
    text = text.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=rf"{text}parameter 1 of group 0.*use_muon=False"):
        Muon(params)
    optimizer = Muon(params[:1])
    with pytest.raises(ValueError, match="parameter 0 of group 1"):
        optimizer.add_param_group({"params": params[1:]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": params[1:], "use_muon": False})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lr": -1.0}, "Learning rate should be >= 0 but is: -1.0"),
        ({"lr": torch.ones(2)}, "Tensor lr must be 1-element"),
        ({"momentum": -1.0}, "momentum should be >= 0 but is: -1.0"),
        ({"weight_decay": -1.0}, "weight decay should be >= 0 but is: -1.0"),
        ({"adjust_lr_fn": "spam"}, "Adjust learning rate function spam is not supported"),
    ],
    ids=str,
)
def test_hyperparameters_are_refused_in_torchs_words(options, text):
    for cls in (torch.optim.Muon, Muon):
        with pytest.raises(ValueError, match=f"^{text}$"):
            cls([torch.zeros(2, 2, requires_grad=True)], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": float("nan")},
        {"momentum": float("nan")},
        {"weight_decay": float("nan")},
        {"eps": float("nan")},
        {"ns_steps": 100},
        {"ns_coefficients": (1.0, 2.0)},
    ],
    ids=str,
)
def test_what_torch_finds_late_or_never_is_refused_early(options):
    with pytest.raises(ValueError, match=r"nan|100|3 values"):
        Muon([torch.zeros(2, 2, requires_grad=True)], **options)


@pytest.mark.parametrize(
    "options", [{"stochastic_rounding": True}, {"state_dtype": "8bit"}], ids=str
)
def test_a_step_that_seeds_rounding_is_counted_once(options):
    params = random_matrices(torch.bfloat16)
    optimizer = Muon(params, **options)
    train([optimizer], params)
    assert [optimizer.state[param]["step"].item() for param in params] == [3.0] * len(params)
