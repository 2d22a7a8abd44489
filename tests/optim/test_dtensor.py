"""DTensor parameters: every rank steps its shard, and the whole is the step of the whole."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

import ranks
from family import FAMILY

STEPS = 3
SHAPES = ((5, 3), (4,), (1, 2))  # odd: the shards differ, and one is empty
NAMES = [str(member) for member in FAMILY]


def member_of(name):
    return next(member for member in FAMILY if str(member) == name)


def with_world(world_size, job, *args):
    """In every rank: the job between init and destroy."""
    dist.init_process_group("gloo")
    try:
        return job(dist.device_mesh.init_device_mesh("cpu", (world_size,)), *args)
    finally:
        dist.destroy_process_group()


def run(world_size, job, *args):
    return ranks.run_ranks(world_size, with_world, world_size, job, *args)


def values(seed):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw) for shape in SHAPES]


def all_classes_follow(mesh, placement, dtype, options):
    """Names of the classes whose shards differ from the whole, with what differs."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    placements = [Shard(0) if placement == "shard" else Replicate()]
    wrong = []
    for member in FAMILY:
        whole = [value.to(dtype).requires_grad_() for value in values(0)]
        parts = [nn.Parameter(distribute_tensor(p.detach(), mesh, placements)) for p in whole]
        ours, single = (
            member.ours(params, lr=0.01, **member.steady, **options) for params in (parts, whole)
        )
        for step in range(STEPS):
            for part, param, grad in zip(parts, whole, values(step + 1), strict=True):
                param.grad = grad.to(dtype)
                part.grad = distribute_tensor(param.grad, mesh, placements)
            ours.step()
            single.step()
            if "max_norm" in options:
                torch.testing.assert_close(ours.last_grad_norm, single.last_grad_norm)
        exact = "max_norm" not in options
        for index, (part, param) in enumerate(zip(parts, whole, strict=True)):
            full = part.full_tensor().detach()
            same = torch.equal(full, param) if exact else torch.allclose(full, param, rtol=1e-6)
            if not same:
                wrong.append(f"{member}: parameter {index}")
            for key, value in ours.state[part].items():
                if key != "step" and value.to_local().shape != part.to_local().shape:
                    wrong.append(f"{member}: state {key} of parameter {index}")
    return wrong


CASES = [
    (torch.float32, {}),
    (torch.float32, {"max_norm": 0.1}),
    (torch.bfloat16, {"master": "fp32"}),
    (torch.bfloat16, {"master": "remainder"}),
]


@pytest.mark.parametrize(("dtype", "options"), CASES, ids=str)
@pytest.mark.parametrize("placement", ["shard", "replicate"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_shards_are_stepped_as_the_whole(world_size, placement, dtype, options):
    assert run(world_size, all_classes_follow, placement, dtype, options) == [[]] * world_size


def one_shard_is_not_finite(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    moved = []
    for member in FAMILY:
        param = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
        grad = torch.tensor([1.0, 1.0, 1.0, float("inf")])  # in the last rank's shard alone
        param.grad = distribute_tensor(grad, mesh, [Shard(0)])
        member.ours([param], lr=0.1, max_norm=1.0).step()
        if not torch.equal(param.full_tensor().detach(), torch.ones(4)):
            moved.append(str(member))
    return moved


def test_inf_in_one_shard_skips_on_all_ranks():
    assert run(2, one_shard_is_not_finite) == [[], []]


def messages_of_refusals(mesh):
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    found = []
    for member in FAMILY:
        sharded = nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Shard(0)]))
        sharded.grad = distribute_tensor(torch.ones(4), mesh, [Shard(0)])
        partial = nn.Parameter(DTensor.from_local(torch.zeros(4), mesh, [Partial()]))
        partial.grad = DTensor.from_local(torch.ones(4), mesh, [Partial()])
        plain = nn.Parameter(distribute_tensor(torch.zeros(4), mesh, [Replicate()]))
        plain.grad = DTensor.from_local(torch.ones(4), mesh, [Partial()])
        for param, options in ((sharded, {"state_dtype": "8bit"}), (partial, {}), (plain, {})):
            try:
                member.ours([param], **member.steady, **options).step()
                found.append("")
            except TypeError as error:
                found.append(str(error))
    return found


def test_narrow_states_of_dtensors_and_partial_sums_are_refused():
    (messages,) = run(1, messages_of_refusals)
    for name, *own in zip(NAMES, messages[::3], messages[1::3], messages[2::3], strict=True):
        eight_bit, partial, partial_grad = own
        assert "state_dtype='8bit'" in eight_bit, name
        assert "is not the sum of its parts yet" in partial, name
        assert (
            "parameter 0 has the placements (Replicate(),), its gradient (Partial(sum),)"
            in partial_grad
        ), name


def train_with_checkpoint_api(mesh, name, master):
    """Differences after get_ and set_optimizer_state_dict, which steps once with lr 0."""
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    member = member_of(name)
    torch.manual_seed(3)
    models = [nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).bfloat16() for _ in range(2)]
    optimizers = [
        member.ours(model.parameters(), lr=0.01, master=master, **member.steady) for model in models
    ]

    def train(*numbers):
        for _ in range(2):
            data = torch.randn(5, 4).bfloat16()
            for number in numbers:
                optimizers[number].zero_grad()
                models[number](data).square().sum().backward()
                optimizers[number].step()

    train(0)
    optimizers[0].zero_grad()
    before = [param.detach().clone() for param in models[0].parameters()]
    fresh = [param.detach().clone() for param in models[1].parameters()]
    state_dict = get_optimizer_state_dict(models[0], optimizers[0])
    assert all(map(torch.equal, models[0].parameters(), before))
    set_optimizer_state_dict(models[1], optimizers[1], state_dict)
    assert all(map(torch.equal, models[1].parameters(), fresh))
    models[1].load_state_dict(models[0].state_dict())
    train(0, 1)
    return all(map(torch.equal, models[0].parameters(), models[1].parameters()))


@pytest.mark.parametrize("master", [None, "fp32", "remainder"])
@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_functions_of_torch_change_nothing(name, master):
    assert run(1, train_with_checkpoint_api, name, master) == [True]
