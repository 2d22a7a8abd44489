"""Gradients of a made-up model for the compression tests, and steps that compress them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyparallel.comm.compression import (
    BF16,
    FP16,
    Compressor,
    Int8,
    PowerSGD,
    Scheme,
    Slot,
    TopK,
)

WITH_FEEDBACK = (Int8(), TopK(0.05), PowerSGD(2))
SCHEMES = (FP16(), BF16(), *WITH_FEEDBACK)
SHAPES = ((40, 30), (7,), (300, 5), (1,), (16, 3, 3, 3), (3, 200))
ALIGNMENT = 16


def cut(shapes: tuple[tuple[int, ...], ...], *parts: int) -> list[tuple[int, tuple[Slot, ...]]]:
    """Buckets of so many parameters each: their lengths and slots, with gaps as in a plane."""
    buckets, index = [], 0
    for part in parts:
        slots, offset = [], 0
        for shape in shapes[index : index + part]:
            slot = Slot.of(f"p{index}", offset, torch.empty(shape, device="meta"))
            slots.append(slot)
            offset = -(-slot.end // ALIGNMENT) * ALIGNMENT
            index += 1
        buckets.append((offset, tuple(slots)))
    return buckets


def gradient(name: str, shape: tuple[int, ...], *, seed: int, rank: int, step: int) -> Tensor:
    """Drawn from all of this; a few elements are large, as real gradients have them."""
    generator = torch.Generator().manual_seed(hash((seed, rank, step, int(name[1:]))) & 0xFFFFFFFF)
    values = torch.randn(shape, generator=generator)
    return values * torch.exp(torch.randn(shape, generator=generator))


def fill(
    buckets: list[tuple[int, tuple[Slot, ...]]],
    *,
    seed: int,
    rank: int,
    step: int,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    flats = []
    for numel, slots in buckets:
        flat = torch.zeros(numel, dtype=dtype)
        for slot in slots:
            values = gradient(slot.name, slot.shape, seed=seed, rank=rank, step=step)
            flat[slot.offset : slot.end] = values.flatten().to(dtype)
        flats.append(flat)
    return flats


def reduce_all(
    compressor: Compressor, flats: list[Tensor], buckets: list[tuple[int, tuple[Slot, ...]]]
) -> None:
    """All buckets are in flight before the first is waited for."""
    works = [
        compressor.all_reduce(flat, bucket=index, slots=slots)
        for index, (flat, (_, slots)) in enumerate(zip(flats, buckets, strict=True))
    ]
    for work in works:
        work.wait()


def by_name(flats: list[Tensor], buckets: list[tuple[int, tuple[Slot, ...]]]) -> dict[str, Tensor]:
    return {
        slot.name: flat[slot.offset : slot.end].double()
        for flat, (_, slots) in zip(flats, buckets, strict=True)
        for slot in slots
    }


def errors(compressor: Compressor) -> dict[str, Tensor]:
    """What the rank still owes, by parameter."""
    return compressor.state_dict()["tensors"].get("error", {})


def steps(
    communicator,
    scheme: Scheme,
    seed: int,
    *,
    parts: tuple[int, ...] = (2, 3, 1),
    count: int = 5,
    dtype: torch.dtype = torch.float32,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The results of some steps, by parameter, and the rank's error afterwards.

    On the communicator's device.
    """
    buckets = cut(shapes, *parts)
    compressor = scheme.over(communicator)
    results = []
    for step in range(count):
        flats = fill(buckets, seed=seed, rank=communicator.rank, step=step, dtype=dtype)
        flats = [flat.to(communicator.device) for flat in flats]
        reduce_all(compressor, flats, buckets)
        for flat, (_, slots) in zip(flats, buckets, strict=True):
            filled = torch.zeros_like(flat, dtype=torch.bool)
            for slot in slots:
                filled[slot.offset : slot.end] = True
            assert bool((flat[~filled] == 0).all()), "a gap was written"
        results.append(by_name(flats, buckets))
    return results, errors(compressor)


def true_means(
    world_size: int,
    seed: int,
    *,
    parts: tuple[int, ...] = (2, 3, 1),
    count: int = 5,
    dtype: torch.dtype = torch.float32,
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
) -> list[dict[str, Tensor]]:
    buckets = cut(shapes, *parts)
    means = []
    for step in range(count):
        ranks = [
            by_name(fill(buckets, seed=seed, rank=rank, step=step, dtype=dtype), buckets)
            for rank in range(world_size)
        ]
        means.append({name: sum(r[name] for r in ranks) / world_size for name in ranks[0]})
    return means
