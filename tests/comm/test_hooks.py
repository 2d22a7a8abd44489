"""Hooks for DistributedDataParallel: training goes on as without, over Gloo; errors are raised."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pyparallel.comm import hooks
from pyparallel.comm.compression import Int8, PowerSGD, Scheme, TopK
from ranks import errors_of_ranks, run_ranks

HOOKS: dict[str, Scheme | None] = {
    "fp16": None,
    "bf16": None,
    "int8": None,
    "top_k": TopK(0.05),
    "power_sgd": PowerSGD(rank=2, start_step=3),
}


def model_of(seed: int, **options: Any) -> DistributedDataParallel:
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 1)]
    return DistributedDataParallel(nn.Sequential(*layers), bucket_cap_mb=0.1, **options)


def batch(seed: int, step: int) -> torch.Tensor:
    number = hash((seed, step, dist.get_rank())) & 0xFFFFFFFF
    return torch.randn(32, 64, generator=torch.Generator().manual_seed(number))


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x).squeeze() - x[:, 0]).square().mean()


def train(
    model: DistributedDataParallel, seed: int, steps: range, after: Callable[[], None] | None = None
) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step in steps:
        optimizer.zero_grad()
        if step % 4 == 1:
            with model.no_sync():
                loss_of(model, batch(seed, 1000 + step)).backward()
        loss = loss_of(model, batch(seed, step))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return sum(losses[-5:]) / 5


def digest(model: nn.Module) -> torch.Tensor:
    own = torch.cat([param.detach().flatten() for param in model.parameters()])
    both = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(both, own)
    assert all(torch.equal(own, other) for other in both)  # the same bits on all ranks
    return own


def train_with_every_hook(seed: int, backend: str) -> dict[str, float]:
    dist.init_process_group(backend)
    losses = {"untrained": float(loss_of(model_of(seed), batch(seed, 0)).detach())}
    losses["none"] = train(model_of(seed), seed, range(40))
    for name, scheme in HOOKS.items():
        model = model_of(seed)
        model.register_comm_hook(hooks.State(model, scheme), getattr(hooks, name))
        losses[name] = train(model, seed, range(40))
        digest(model)
    return losses


def test_training_comes_as_far_with_every_hook(seed: int) -> None:
    for losses in run_ranks(2, train_with_every_hook, seed, "gloo"):
        assert losses["none"] < 0.1 * losses["untrained"]
        for name in HOOKS:
            bound = 0.2 if name in ("top_k", "power_sgd") else 0.02
            assert abs(losses[name] - losses["none"]) < bound * losses["none"], (name, losses)


def resumed(seed: int, name: str) -> None:
    """The second half from checkpoints of model and state, after DDP has made its buckets anew."""
    dist.init_process_group("gloo")
    hook, scheme = getattr(hooks, name), HOOKS[name]
    whole = model_of(seed, static_graph=True)
    state = hooks.State(whole, scheme)
    assert state.state_dict() == {}
    whole.register_comm_hook(state, hook)
    train(whole, seed, range(10))
    file = io.BytesIO()
    torch.save([whole.state_dict(), state.state_dict()], file)
    train(whole, seed, range(10, 12))
    file.seek(0)
    saved_model, saved_state = torch.load(file)
    other = model_of(seed + 1, static_graph=True)
    other.load_state_dict(saved_model)
    other_state = hooks.State(other, scheme)
    other_state.load_state_dict({})  # saved before the first backward
    other_state.load_state_dict(saved_state)
    assert other_state.state_dict()["step"] == saved_state["step"] == 10
    other.register_comm_hook(other_state, hook)
    train(other, seed, range(10, 12))
    torch.testing.assert_close(digest(other), digest(whole), rtol=0, atol=2e-4)
    owed, other_owed = (s.state_dict()["tensors"] for s in (state, other_state))
    assert state.state_dict()["step"] == other_state.state_dict()["step"] == 12
    assert owed.keys() == other_owed.keys()
    for kind, by_name in owed.items():
        assert by_name.keys() == other_owed[kind].keys()
        assert all("." in parameter for parameter in by_name)


@pytest.mark.parametrize("name", ["bf16", "int8", "power_sgd"])
def test_a_resumed_run_goes_on(seed: int, name: str) -> None:
    run_ranks(2, resumed, seed, name)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(200, 200) for _ in range(3))

    def forward(self, x: torch.Tensor, use: str) -> torch.Tensor:
        for name in use:
            x = getattr(self, name)(x)
        return x.square().mean()


def with_unused_parameters(seed: int) -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(seed)
    model = DistributedDataParallel(Branches(), bucket_cap_mb=0.1, find_unused_parameters=True)
    model.register_comm_hook(hooks.State(model), hooks.int8)
    for step in range(6):
        model.zero_grad()
        use = ("ab", "ac", "a", "abc", "b", "c")[(step + dist.get_rank()) % 6]
        model(torch.randn(3, 200), use).backward()
        for param in model.parameters():
            if param.grad is not None:
                param.data.sub_(param.grad, alpha=0.1)
    digest(model)


def test_ranks_that_use_different_parameters_stay_together(seed: int) -> None:
    run_ranks(2, with_unused_parameters, seed)


def raise_in_stages(seed: int) -> None:
    """A later stage fails on both ranks; the next backward is right again."""
    dist.init_process_group("gloo")
    model = model_of(seed)
    state = hooks.State(model)
    model.register_comm_hook(state, hooks.int8)
    train(model, seed, range(2))
    compressor = state.compressor(Int8())
    sound = compressor._stages

    def failing(flat: torch.Tensor, *args: Any) -> Any:
        stages = sound(flat, *args)
        yield next(stages)
        raise OSError("the second stage fails")

    compressor._stages = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="OSError: the second stage fails"):
        train(model, seed, range(1))
    compressor._stages = sound  # type: ignore[method-assign]
    train(model, seed, range(3))
    digest(model)


def test_an_error_of_a_later_stage_is_raised_by_backward(seed: int) -> None:
    run_ranks(2, raise_in_stages, seed)


def leave(seed: int) -> None:
    dist.init_process_group("gloo")
    model = model_of(seed)
    model.register_comm_hook(hooks.State(model), hooks.int8)
    for step in range(100):
        if dist.get_rank() == 1 and step == 3:
            raise ZeroDivisionError("rank 1 has had enough")
        loss_of(model, batch(seed, step)).backward()


def test_a_rank_that_leaves_is_an_error_of_the_others_backward(seed: int) -> None:
    errors = errors_of_ranks(2, leave, seed)
    assert isinstance(errors[1], ZeroDivisionError)
    assert isinstance(errors[0], RuntimeError)
    assert "onnection" in str(errors[0])  # Gloo names no rank


def refusals(seed: int) -> None:
    dist.init_process_group("gloo")
    with pytest.raises(TypeError, match="takes the DistributedDataParallel"):
        hooks.State(nn.Linear(2, 2))  # type: ignore[arg-type]
    model = model_of(seed)
    model.register_comm_hook(hooks.State(model, TopK(0.5)), hooks.int8)
    with pytest.raises(TypeError, match=r"hook does Int8, its state was made for TopK\(ratio=0.5"):
        loss_of(model, batch(seed, 0)).backward()
    other = model_of(seed)
    other.register_comm_hook(hooks.State(model), hooks.int8)
    with pytest.raises(ValueError, match="made for another model than this bucket's"):
        loss_of(other, batch(seed, 0)).backward()
    double = DistributedDataParallel(nn.Linear(3, 1).double())
    double.register_comm_hook(hooks.State(double), hooks.fp16)
    with pytest.raises(TypeError, match=r"FP16 compresses .* 'weight' is torch.float64"):
        double(torch.ones(2, 3).double()).sum().backward()


def test_wrong_use_is_refused_by_name(seed: int) -> None:
    run_ranks(2, refusals, seed)
