"""A torch.distributed job over our backend, for the tests beside: ranks, inputs, ways to call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ranks import run_ranks


def _in_job(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    dist.init_process_group("pyparallel")
    value = function(*args)
    dist.destroy_process_group()
    return value


def run_torch_job(
    world_size: int, function: Callable[..., Any], *args: Any, **options: Any
) -> list[Any]:
    """The results of the ranks of a job over "pyparallel"."""
    return run_ranks(world_size, _in_job, function, args, **options)


def drawn(seed: int, count: int, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Small integers as tensors, the same list on every rank: sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    low = 0 if dtype in (torch.bool, torch.uint8) else -3
    high = 2 if dtype == torch.bool else 4
    draws = [torch.randint(low, high, (*shape, 2), generator=generator) for _ in range(count)]
    if dtype.is_complex:
        return [torch.view_as_complex(draw.double()).to(dtype) for draw in draws]
    return [draw[..., 0].to(dtype) for draw in draws]


def scattered(tensor: Tensor) -> Tensor:
    """The same values with gaps between the elements."""
    spread = torch.empty(*tensor.shape, 3, dtype=tensor.dtype)
    spread[..., 1] = tensor
    return spread[..., 1]


class Alternately:
    """Calls operations synchronously, asynchronously with wait(), and with a future, in turn."""

    def __init__(self) -> None:
        self._calls = 0

    def __call__(self, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._calls += 1
        way = self._calls % 3
        work = operation(*args, async_op=way > 0, **kwargs)
        if way == 0:
            assert work is None
            return
        if way == 2:
            work.get_future().wait()
        work.wait()
        assert work.is_completed()
        assert work.is_success()
        assert work.exception() is None
