"""torch's own parallel code over our backend: equal to one process on the whole batch."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as checkpoint
import torch.distributed.nn.functional as autograd
from torch import Tensor, nn
from torch.distributed import _functional_collectives as functional
from torch.distributed._composable.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from torch_job import run_torch_job

WIDTH = 16


class Model(nn.Module):
    """Two layers and one that only odd steps use."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 40)
        self.down = nn.Linear(40, WIDTH)
        self.extra = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, extra: bool = True) -> Tensor:
        x = self.down(torch.relu(self.up(x)))
        return self.extra(x) if extra else x


def model(seed: int) -> Model:
    torch.manual_seed(seed)
    return Model()


def batches(seed: int, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(6 * dist.get_world_size(), WIDTH, generator=generator) for _ in range(steps)
    ]


def own(batch: Tensor) -> Tensor:
    return batch.chunk(dist.get_world_size())[dist.get_rank()]


def train(
    module: nn.Module, inputs: list[Tensor], steps: Callable[[int], dict[str, Any]] | None = None
) -> list[Tensor]:
    """Three steps of AdamW; the losses' sum is over the batch's mean, so ranks average to it."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for number, batch in enumerate(inputs):
        optimizer.zero_grad()
        module(batch, **(steps(number) if steps else {})).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in module.parameters()]


def close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def waiting_hook(_: Any, bucket: dist.GradBucket) -> Future[Tensor]:
    """Waits within backward, which must not be put off to its end."""
    future = dist.all_reduce(bucket.buffer() / dist.get_world_size(), async_op=True).get_future()
    future.wait()
    return future.then(lambda done: done.value()[0])


def chained_hook(_: Any, bucket: dist.GradBucket) -> Future[Tensor]:
    """Waits for a second operation where the first one's future is completed."""

    def second(done: Any) -> Tensor:
        work = dist.all_reduce(torch.ones(()), async_op=True)
        return done.value()[0] / work.get_future().wait()[0]

    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(second)


def data_parallel(seed: int) -> None:
    def odd_steps(number: int) -> dict[str, Any]:
        return {"extra": number % 2 == 1}

    inputs = batches(seed, 3)
    reference = train(model(seed), inputs)
    for options in (
        {},
        {"static_graph": True},
        {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.001},
        {"find_unused_parameters": True},
    ):
        found = train(
            DistributedDataParallel(model(seed), **options), [own(batch) for batch in inputs]
        )
        close(found, reference)
    wrapper = DistributedDataParallel(model(seed), find_unused_parameters=True)
    found = train(wrapper, [own(batch) for batch in inputs], odd_steps)
    close(found, train(model(seed), inputs, odd_steps))
    wrapper = DistributedDataParallel(model(seed))
    wrapper.register_comm_hook(None, fp16_compress_hook)
    close(train(wrapper, [own(batch) for batch in inputs]), reference, 3e-2)
    for hook in (waiting_hook, chained_hook):
        wrapper = DistributedDataParallel(model(seed))
        wrapper.register_comm_hook(None, hook)
        close(train(wrapper, [own(batch) for batch in inputs]), reference)
    # Accumulation without communication, then with it.
    wrapper = DistributedDataParallel(model(seed))
    with wrapper.no_sync():
        wrapper(own(inputs[0])).square().mean().backward()
    wrapper(own(inputs[1])).square().mean().backward()
    whole = model(seed)
    for batch in inputs[:2]:
        whole(batch).square().mean().backward()
    close([p.grad for p in wrapper.parameters()], [p.grad for p in whole.parameters()])


def uneven_inputs(seed: int) -> None:
    rank = dist.get_rank()
    wrapper = DistributedDataParallel(model(seed))
    with Join([wrapper]):
        for batch in batches(seed, 2 + rank):
            wrapper(own(batch)).square().mean().backward()
            wrapper.zero_grad()
    gathered = [torch.zeros(()) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, next(wrapper.parameters()).detach().sum())
    assert len({value.item() for value in gathered}) == 1


def fully_sharded(seed: int) -> None:
    inputs = batches(seed, 3)
    reference = train(model(seed), inputs)
    for policy, tolerance in (
        (MixedPrecisionPolicy(), 1e-5),
        (MixedPrecisionPolicy(torch.bfloat16, torch.float32), 5e-2),
    ):
        sharded: Any = model(seed)
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in (sharded.up, sharded.down, sharded.extra):
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(sharded, mesh=mesh, mp_policy=policy)
        found = train(sharded, [own(batch) for batch in inputs])
        whole = [part.full_tensor() for part in found if isinstance(part, DTensor)]
        close(whole, reference, tolerance)
    # Checkpoint: the shards of this model, read by one that was never trained.
    with tempfile.TemporaryDirectory() if dist.get_rank() == 0 else _Nothing() as name:
        where: list[Any] = [name]
        dist.broadcast_object_list(where)
        checkpoint.save(sharded.state_dict(), checkpoint_id=Path(where[0]))
        fresh: Any = fully_shard(model(seed + 1), mesh=mesh)
        state = fresh.state_dict()
        checkpoint.load(state, checkpoint_id=Path(where[0]))
        fresh.load_state_dict(state)
        pairs = zip(fresh.parameters(), sharded.parameters(), strict=True)
        for loaded, saved in pairs:
            close(loaded.full_tensor(), saved.full_tensor(), 0)
        dist.barrier()


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        pass


def distributed_tensors(seed: int) -> None:
    world = dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    full = batches(seed, 1)[0]
    for rows in (full, full[:-1]):  # the second is not divisible
        sharded = distribute_tensor(rows, mesh, [Shard(0)])
        for placement in (Replicate(), Shard(1)):
            close(sharded.redistribute(mesh, [placement]).full_tensor(), rows)
        partial = DTensor.from_local(rows.clone(), mesh, [Partial()])
        close(partial.redistribute(mesh, [Shard(0)]).full_tensor(), rows * world)
        close(
            (sharded @ distribute_tensor(rows.t(), mesh, [Shard(1)])).full_tensor(), rows @ rows.t()
        )
        close(sharded.sum().full_tensor(), rows.sum(), 1e-4)
    reference = model(seed)
    parallel = parallelize_module(
        model(seed), mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()}
    )
    close(parallel(full), reference(full))
    parallel(full).sum().backward()
    reference(full).sum().backward()
    grad = parallel.up.weight.grad
    assert isinstance(grad, DTensor)
    close(grad.full_tensor(), reference.up.weight.grad)


def functional_collectives(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    group: Any = dist.group.WORLD
    rows = batches(seed, world)
    total = torch.stack(rows).sum(0)

    def program(x: Tensor) -> tuple[Tensor, ...]:
        summed = functional.all_reduce(x * 2, "sum", group)
        mean = functional.all_reduce(x, "avg", group)
        gathered = functional.all_gather_tensor(x, 0, group)
        mine = functional.reduce_scatter_tensor(x, "sum", 0, group)
        swapped = functional.all_to_all_single(x, None, None, group)
        root = functional.broadcast(x, 0, group)
        return tuple(
            functional.wait_tensor(y) for y in (summed, mean, gathered, mine, swapped, root)
        )

    n = len(total) // world
    wanted = (
        total * 2,
        total / world,
        torch.cat(rows),
        total[rank * n : (rank + 1) * n],
        torch.cat([row[rank * n : (rank + 1) * n] for row in rows]),
        rows[0],
    )
    close(program(rows[rank]), wanted)
    close(torch.compile(program, backend="aot_eager", fullgraph=True)(rows[rank]), wanted)
    for found, want in zip(
        functional.all_reduce_coalesced([rows[rank], rows[rank] + 1], "sum", group),
        [total, total + world],
        strict=True,
    ):
        close(functional.wait_tensor(found), want)


def differentiable(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    rows = batches(seed, world)
    x = rows[rank].clone().requires_grad_()
    autograd.all_reduce(x * (rank + 1)).sum().backward()
    close(x.grad, torch.full_like(x, float((rank + 1) * world)))
    x.grad = None
    weights = torch.arange(1.0, world + 1)
    gathered = torch.stack(autograd.all_gather(x))
    (gathered.sum((1, 2)) * weights).sum().backward()
    close(x.grad, torch.full_like(x, float((rank + 1) * world)))
    x.grad = None
    autograd.broadcast(x, 0).sum().backward()
    close(x.grad, torch.full_like(x, float(world) if rank == 0 else 0.0))


def pipeline(seed: int) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(seed)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(world)]
    batch, target = batches(seed, 2)
    whole = nn.Sequential(*copy.deepcopy(layers))
    (whole(batch) - target).square().mean().backward()
    for schedule in (ScheduleGPipe, Schedule1F1B):
        layer = copy.deepcopy(layers[rank])
        stage = PipelineStage(layer, rank, world, torch.device("cpu"))
        run: Any = schedule(
            stage, 3, loss_fn=lambda output, wanted: (output - wanted).square().mean()
        )
        if rank == 0:
            run.step(batch)
        elif rank == world - 1:
            close(run.step(target=target), whole(batch))
        else:
            run.step()
        close(
            [parameter.grad for parameter in layer.parameters()],
            [parameter.grad for parameter in whole[rank].parameters()],
        )


def meshes(seed: int) -> None:
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    for name, ranks in (
        ("rows", [rank % 2, rank % 2 + 2]),
        ("columns", [rank // 2 * 2, rank // 2 * 2 + 1]),
    ):
        group = mesh.get_group(name)
        assert dist.get_backend(group) == "pyparallel"
        assert dist.get_process_group_ranks(group) == ranks
        tensor = torch.tensor([float(rank)])
        dist.all_reduce(tensor, group=group)
        assert tensor.item() == sum(ranks)
    assert isinstance(mesh["rows"], DeviceMesh)
    # FSDP over one dimension, tensor parallelism over the other.
    batch = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(seed))
    reference = model(seed)
    reference(batch).square().mean().backward()
    both: Any = parallelize_module(
        model(seed), mesh["columns"], {"up": ColwiseParallel(), "down": RowwiseParallel()}
    )
    fully_shard(both, mesh=mesh["rows"])
    both(batch.chunk(2)[rank // 2]).square().mean().backward()
    close(both.up.weight.grad.full_tensor(), reference.up.weight.grad)
    close(both.down.weight.grad.full_tensor(), reference.down.weight.grad)


@pytest.mark.parametrize(
    ("world_size", "function"),
    [
        (3, uneven_inputs),
        (2, fully_sharded),
        (2, distributed_tensors),
        (3, functional_collectives),
        (2, differentiable),
        (3, pipeline),
        (4, meshes),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_unmodified_code(world_size: int, function: Callable[[int], None], seed: int) -> None:
    run_torch_job(world_size, function, seed, timeout=120)


@pytest.mark.parametrize("ranks_on_host", [1, 1000], ids=["free cores", "no free core"])
def test_data_parallel_with_and_without_overlap(ranks_on_host: int, seed: int) -> None:
    environment = {"LOCAL_WORLD_SIZE": str(ranks_on_host)}
    run_torch_job(2, data_parallel, seed, environment=environment)
