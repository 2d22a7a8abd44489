"""DataParallel: the gradients and weights of DistributedDataParallel, without its surprises."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import pyparallel
from models import Mixed, TwoBranches, images
from pyparallel import DataParallel
from pyparallel.errors import PeerLostError
from ranks import errors_of_ranks, run_ranks


def beside_torch(seed: int, overlap: bool) -> None:
    dist.init_process_group("gloo")  # and no init() of ours
    rank = dist.get_rank()
    torch.manual_seed(seed + rank)  # the ranks start from different weights
    ours = DataParallel(Mixed(), overlap=overlap, bucket_cap_mb=1)
    peer_model = copy.deepcopy(ours.module)
    peer = DistributedDataParallel(peer_model)
    optimizers = [
        torch.optim.SGD(ours.parameters(), lr=0.01),
        torch.optim.SGD(peer.parameters(), lr=0.01),
    ]
    for step in range(6):
        for model in (ours, peer):
            if step % 3 == 2:  # two micro-batches, the first without synchronisation
                with model.no_sync():
                    model(images(seed, rank, 100 + step)).backward()
            model(images(seed, rank, step)).backward()
        pairs = zip(ours.module.named_parameters(), peer_model.parameters(), strict=True)
        for (name, param), other in pairs:
            if other.grad is None:
                assert param.grad is None, name
                continue
            # Ranks' gradients may cancel: rounding is relative to what was added, not to the sum.
            rounding = 2e-2 if param.dtype == torch.bfloat16 else 1e-5
            atol = rounding * float(other.grad.abs().max())
            torch.testing.assert_close(
                param.grad,
                other.grad,
                rtol=rounding,
                atol=atol,
                msg=lambda text, name=name, step=step: f"{name}, {step}: {text}",
            )
            other.grad.copy_(param.grad)  # so that rounding does not add up
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
    torch.testing.assert_close(ours.state_dict(), peer_model.state_dict())
    digest = torch.cat([p.detach().double().flatten() for p in ours.parameters()])
    others = [torch.empty_like(digest) for _ in range(dist.get_world_size())]
    dist.all_gather(others, digest)
    assert all(torch.equal(digest, other) for other in others)  # the same bits on all ranks


@pytest.mark.parametrize("overlap", [False, True])
def test_gradients_and_weights_equal_those_of_distributed_data_parallel(
    seed: int, overlap: bool
) -> None:
    run_ranks(2, beside_torch, seed, overlap)


def no_second_copy() -> None:
    pyparallel.init()
    model = DataParallel(nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 3)))
    optimizer = pyparallel.optim.AdamW(model.parameters())
    addresses = []
    for set_to_none in (True, False, True):
        model(torch.randn(4, 300)).sum().backward()
        grads = [param.grad for param in model.parameters()]
        assert all(grad is not None and grad._base is not None for grad in grads)
        addresses.append([grad.data_ptr() for grad in grads if grad is not None])
        optimizer.step()
        optimizer.zero_grad(set_to_none=set_to_none)
    assert addresses[0] == addresses[1] == addresses[2]


def test_gradients_are_views_of_the_same_buckets_after_either_zero_grad() -> None:
    run_ranks(2, no_second_copy)


def unused(find: bool, branches_of_rank: list[str]) -> list[Any]:
    context = pyparallel.init()
    model = DataParallel(TwoBranches(), find_unused_parameters=find)
    with torch.no_grad():
        for param in model.parameters():
            param.fill_(1)
    model(torch.ones(1, 4), branches_of_rank[context.rank]).backward()
    grads = [
        model.module.left.bias.grad,
        model.module.right.bias.grad,
        model.module.never.bias.grad,
    ]
    return [None if grad is None else grad.tolist() for grad in grads]


def test_unused_parameters_are_named() -> None:
    errors = errors_of_ranks(2, unused, False, ["left", "left right never"])
    message = str(errors[0])
    assert isinstance(errors[0], RuntimeError)
    assert "'right.weight'" in message
    assert "'never.bias'" in message
    assert "'left." not in message
    assert "on rank 0" in message
    assert errors[1] is None


def test_unused_parameters_count_as_zero_or_stay_none() -> None:
    for grads in run_ranks(2, unused, True, ["left", "left right"]):
        assert grads[0] == [(1.0 + 4.0) / 2] * 4  # through `right` on one rank only
        assert grads[1] == [0.5] * 4
        assert grads[2] is None  # used nowhere


def again_after_an_error() -> None:
    pyparallel.init()
    model = DataParallel(TwoBranches(), find_unused_parameters=True)
    x = torch.ones(1, 4, requires_grad=True)

    def fail(_: torch.Tensor) -> None:
        raise KeyError("in backward")

    for turn in range(2):
        if turn == 0:
            y = x * 1
            y.register_hook(fail)
            with pytest.raises(KeyError, match="in backward"):
                model(y, "left right never").backward()
        else:
            model.zero_grad()
            model(x, "left right never").backward()


def test_a_backward_that_raised_is_forgotten() -> None:
    run_ranks(2, again_after_an_error)


def twice() -> None:
    pyparallel.init()
    layer = nn.Linear(4, 4)
    head = nn.Linear(4, 1)

    class Reentrant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = layer, head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=True)
            return self.head(x).sum()

    DataParallel(Reentrant())(torch.ones(2, 4, requires_grad=True)).backward()


def test_a_gradient_that_comes_twice_is_named() -> None:
    for error in errors_of_ranks(2, twice):
        assert isinstance(error, RuntimeError)
        assert "'layer." in str(error)
        assert "use_reentrant=False" in str(error)


def checkpoints() -> None:
    pyparallel.init()
    model = DataParallel(Mixed())
    plain = Mixed()
    assert list(model.state_dict()) == list(plain.state_dict())
    prefixed = {f"module.{key}": value for key, value in plain.state_dict().items()}
    for state in (plain.state_dict(), prefixed):
        model.load_state_dict(state)
        torch.testing.assert_close(model.state_dict(), plain.state_dict())
    outer = nn.ModuleDict({"inner": model})
    nested = {f"inner.{key}": value + 1 for key, value in plain.state_dict().items()}
    assert list(outer.state_dict()) == list(nested)
    outer.load_state_dict(nested)
    torch.testing.assert_close(dict(outer.state_dict()), nested)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({})


def test_checkpoints_carry_no_prefix_and_are_taken_with_or_without_one() -> None:
    run_ranks(2, checkpoints)


def refusals() -> None:
    pyparallel.init()
    with pytest.raises(RuntimeError, match="no parameter of the module needs a gradient"):
        DataParallel(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match="says cuda:0, the module is on cpu"):
        DataParallel(nn.Linear(2, 2), device_ids=[0])
    with pytest.raises(TypeError, match="'weight' is a meta tensor"):
        DataParallel(nn.Linear(2, 2, device="meta"))
    with pytest.raises(TypeError, match="unexpected keyword"):
        DataParallel(nn.Linear(2, 2), bucket_cap=3)  # type: ignore[call-arg]


def unfreeze_late() -> None:
    pyparallel.init()
    model = DataParallel(Mixed())
    model.module.frozen.requires_grad_(True)
    model(images(0, 0, 0))


def test_a_parameter_unfrozen_after_wrapping_is_named() -> None:
    (error,) = errors_of_ranks(1, unfreeze_late)
    assert isinstance(error, RuntimeError)
    assert "'frozen.weight' was frozen when its module was wrapped" in str(error)


def test_wrong_arguments_are_refused_by_name() -> None:
    run_ranks(1, refusals)


def in_a_sub_group() -> float:
    dist.init_process_group("gloo")
    groups = [dist.new_group([0, 2]), dist.new_group([1])]
    group = groups[dist.get_rank() % 2]
    model = DataParallel(nn.Linear(1, 1), process_group=group)
    model(torch.full((1, 1), float(dist.get_rank()))).sum().backward()
    assert model.module.weight.grad is not None
    return model.module.weight.grad.item()


def test_a_process_group_of_some_ranks_averages_over_those() -> None:
    assert run_ranks(3, in_a_sub_group) == [1.0, 1.0, 1.0]


def raise_in_training() -> None:
    context = pyparallel.init()
    model = DataParallel(nn.Linear(200, 200))
    for step in range(100):
        if context.rank == 1 and step == 3:
            raise ZeroDivisionError("rank 1 has had enough")
        model(torch.ones(1, 200)).sum().backward()


def test_a_rank_that_raises_in_training_is_named_by_the_others() -> None:
    errors = errors_of_ranks(2, raise_in_training)
    assert isinstance(errors[1], ZeroDivisionError)
    assert isinstance(errors[0], PeerLostError)
    assert errors[0].rank == 1
