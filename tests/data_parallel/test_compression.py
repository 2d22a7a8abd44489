"""DataParallel(compression=...): trains as without, on the same bits, and resumes exactly."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import nn

import pyparallel
from models import Mixed, TwoBranches, images
from pyparallel import DataParallel
from pyparallel.comm.compression import BF16, Compression, Int8, PowerSGD, TopK
from ranks import errors_of_ranks, run_ranks

COMPRESSIONS: dict[str, Compression | None] = {
    "none": None,
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "int8",
    "top_k": TopK(0.05),
    "power_sgd": PowerSGD(rank=2, start_step=3),
}
LOSSY = [name for name in COMPRESSIONS if name != "none"]


def model_of(seed: int, compression: Compression | None, **options: Any) -> DataParallel:
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 203), nn.Tanh(), nn.Linear(203, 200), nn.Tanh(), nn.Linear(200, 1)]
    return DataParallel(
        nn.Sequential(*layers), bucket_cap_mb=0.1, compression=compression, **options
    )


def batch(seed: int, step: int) -> torch.Tensor:
    number = hash((seed, step, pyparallel.init().rank)) & 0xFFFFFFFF
    return torch.randn(32, 64, generator=torch.Generator().manual_seed(number))


def loss_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x).squeeze() - x[:, 0]).square().mean()


def train(model: DataParallel, optimizer: torch.optim.Optimizer, seed: int, steps: range) -> float:
    losses = []
    for step in steps:
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        if step % 4 == 1:
            with model.no_sync():
                loss_of(model, batch(seed, 1000 + step)).backward()
        loss = loss_of(model, batch(seed, step))
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    return sum(losses[-5:]) / 5


def digest(model: nn.Module) -> torch.Tensor:
    communicator = pyparallel.init().communicator
    own = torch.cat([param.detach().flatten().double() for param in model.parameters()])
    both = torch.empty(communicator.world_size, own.numel(), dtype=torch.float64)
    communicator.all_gather(both, own).wait()
    assert all(torch.equal(own, other) for other in both)  # the same bits on all ranks
    return own


def train_with_everything(seed: int, overlap: bool) -> dict[str, float]:
    pyparallel.init()
    losses = {"untrained": float(loss_of(model_of(seed, None), batch(seed, 0)).detach())}
    for name, compression in COMPRESSIONS.items():
        model = model_of(seed, compression, overlap=overlap)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        losses[name] = train(model, optimizer, seed, range(40))
        digest(model)
    return losses


@pytest.mark.parametrize("overlap", [False, True])
def test_training_comes_as_far_with_every_scheme(seed: int, overlap: bool) -> None:
    for losses in run_ranks(2, train_with_everything, seed, overlap):
        assert losses["none"] < 0.1 * losses["untrained"]
        for name in LOSSY:
            bound = 0.2 if name in ("top_k", "power_sgd") else 0.02
            assert abs(losses[name] - losses["none"]) < bound * losses["none"], (name, losses)


def resumed(seed: int, name: str) -> None:
    """Checkpoints of model, optimizer and compressor, each rank its own, after half of the run."""
    pyparallel.init()
    whole = model_of(seed, COMPRESSIONS[name])
    optimizer = pyparallel.optim.AdamW(whole.parameters())
    train(whole, optimizer, seed, range(5))
    assert whole.compressor is not None
    file = io.BytesIO()
    parts = (whole, optimizer, whole.compressor)
    torch.save([part.state_dict() for part in parts], file)
    train(whole, optimizer, seed, range(5, 10))
    other = model_of(seed + 1, COMPRESSIONS[name])
    other_optimizer = pyparallel.optim.AdamW(other.parameters())
    assert other.compressor is not None
    file.seek(0)
    for part, state in zip(
        (other, other_optimizer, other.compressor), torch.load(file), strict=True
    ):
        part.load_state_dict(state)
    train(other, other_optimizer, seed, range(5, 10))
    assert torch.equal(digest(other), digest(whole))
    assert [w.compressor.state_dict()["step"] for w in (whole, other)] == [10, 10]
    owed = whole.compressor.state_dict()["tensors"].get("error", {})
    assert all(name in dict(whole.module.named_parameters()) for name in owed)


@pytest.mark.parametrize("name", LOSSY)
def test_a_resumed_run_goes_on_bit_for_bit(seed: int, name: str) -> None:
    run_ranks(2, resumed, seed, name)


def nothing_is_lost(seed: int, name: str) -> None:
    """The results of some backwards plus what the ranks still owe are the sum of the true means."""
    communicator = pyparallel.init().communicator
    model = DataParallel(Mixed(), compression=COMPRESSIONS[name], bucket_cap_mb=1)
    plain = DataParallel(Mixed(), bucket_cap_mb=1)
    plain.load_state_dict(model.state_dict())
    sums: dict[str, torch.Tensor] = {}
    for step in range(4):
        for sign, wrapper in ((1, model), (-1, plain)):
            wrapper.zero_grad()
            wrapper(images(seed, communicator.rank, step)).backward()
            for key, param in wrapper.module.named_parameters():
                if param.grad is not None:
                    sums[key] = sums.get(key, 0) + sign * param.grad.double()
    assert model.compressor is not None
    owed = model.compressor.state_dict()["tensors"]["error"]
    for key, param in model.module.named_parameters():
        if key not in sums:
            continue
        mean = owed[key].clone() if key in owed else torch.zeros(param.numel())
        communicator.all_reduce(mean, "mean").wait()
        in_memory_order = torch.as_strided(sums[key], (param.numel(),), (1,))
        assert sums[key].stride() == param.stride()
        scale = float(param.grad.abs().max()) + float(mean.abs().max())
        rounding = 1e-4 if param.dtype == torch.float32 else 3e-2
        torch.testing.assert_close(
            in_memory_order + mean,
            torch.zeros_like(in_memory_order),
            rtol=0,
            atol=rounding * scale,
            msg=lambda text, key=key: f"{key}: {text}",
        )


@pytest.mark.parametrize("name", ["int8", "top_k"])
def test_nothing_is_lost_in_any_layout_or_dtype(seed: int, name: str) -> None:
    run_ranks(2, nothing_is_lost, seed, name)


def unused() -> list[object]:
    rank = pyparallel.init().rank
    model = DataParallel(TwoBranches(), find_unused_parameters=True, compression="int8")
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(1)
    model(torch.ones(1, 4), ["left", "left right"][rank]).backward()
    module = model.module
    grads = [module.left.bias.grad, module.right.bias.grad, module.never.bias.grad]
    return [None if grad is None else [round(g, 1) for g in grad.tolist()] for grad in grads]


def test_unused_parameters_count_as_zero_or_stay_none() -> None:
    assert run_ranks(2, unused) == [[[2.5] * 4, [0.5] * 4, None]] * 2


def unused_while_something_is_owed() -> tuple[object, float]:
    """What was dropped of a parameter arrives in a step that does not use it."""
    pyparallel.init()
    model = DataParallel(TwoBranches(), find_unused_parameters=True, compression=TopK(1 / 60))
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(1)
    sums = [torch.zeros(4, 4), torch.zeros(4, 4)]
    for step in range(40):
        model.zero_grad()
        model(torch.ones(1, 4), "left right" if step == 0 else "left").backward()
        for total, branch in zip(sums, (model.module.right, model.module.never), strict=True):
            total += 0 if branch.weight.grad is None else branch.weight.grad
    assert model.compressor is not None
    owed = model.compressor.state_dict()["tensors"]["error"]["right.weight"]
    return model.module.never.weight.grad, float((sums[0].flatten() + owed).min())


def test_what_is_owed_to_an_unused_parameter_is_not_forgotten() -> None:
    assert run_ranks(2, unused_while_something_is_owed) == [(None, 5.0)] * 2


def again_after_an_error(seed: int) -> None:
    """A backward that raised leaves works of several stages behind."""
    pyparallel.init()
    model = model_of(seed, Int8(), overlap=True)
    weight = model.module[0].weight

    def fail(_: torch.Tensor) -> None:
        raise KeyError("a mistake of all ranks")

    for step in range(5):
        handle = weight.register_hook(fail)
        with pytest.raises(KeyError):
            loss_of(model, batch(seed, step)).backward()
        handle.remove()
        model.zero_grad()
        loss_of(model, batch(seed, step)).backward()
        for param in model.parameters():
            assert param.grad is not None
            param.data.add_(param.grad, alpha=-0.1)
    digest(model)


def test_a_backward_after_one_that_raised_is_right(seed: int) -> None:
    run_ranks(2, again_after_an_error, seed)


def scaled() -> list[float]:
    """A gradient beyond float16's range is found by GradScaler on all ranks."""
    rank = pyparallel.init().rank
    model = DataParallel(nn.Linear(3, 1, bias=False), compression="fp16")
    optimizer = pyparallel.optim.AdamW(model.parameters())
    scaler = pyparallel.amp.GradScaler("cpu", init_scale=1024.0)
    before = model.module.weight.clone()
    scales = []
    for factor in (1.0, 1000.0 if rank == 1 else 1.0, 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.full((1, 3), factor)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert bool(model.module.weight.isfinite().all())
    assert not torch.equal(model.module.weight, before)
    return scales


def test_overflow_of_float16_reaches_the_scaler_of_every_rank() -> None:
    assert run_ranks(2, scaled) == [[1024.0, 512.0, 512.0]] * 2


def different() -> None:
    rank = pyparallel.init().rank
    DataParallel(nn.Linear(2, 2), compression=TopK(0.1) if rank == 0 else BF16())


def test_ranks_with_different_compression_are_told_so() -> None:
    for error in errors_of_ranks(2, different):
        assert isinstance(error, ValueError)
        assert "'compression' is TopK(ratio=0.1) on rank 0 and BF16() on rank 1" in str(error)


def refusals() -> None:
    pyparallel.init()
    with pytest.raises(TypeError, match=r"Int8 compresses .*'bias' is torch.float64"):
        DataParallel(nn.Linear(2, 2).double(), compression="int8")
    with pytest.raises(ValueError, match="compression 'zip' is none of"):
        DataParallel(nn.Linear(2, 2), compression="zip")  # type: ignore[arg-type]
    assert DataParallel(nn.Linear(2, 2)).compressor is None


def test_wrong_compression_is_refused_by_name() -> None:
    run_ranks(2, refusals)
