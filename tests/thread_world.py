"""A world of threads: the protocol's collectives in one process, slow, strict and counting bytes.

Ranks that issue different operations at the same place of their order fail, and so does one that
changes a tensor before its work is completed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

_PATIENCE_SECONDS = 20


class _Meeting:
    """What the ranks brought to every operation."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.condition = threading.Condition()
        self.posts: dict[int, dict[int, tuple[str, Tensor]]] = {}
        self.broken = False

    def post(self, number: int, rank: int, what: str, value: Tensor) -> None:
        with self.condition:
            self.posts.setdefault(number, {})[rank] = (what, value)
            self.condition.notify_all()

    def all_of(self, number: int) -> list[Tensor]:
        def complete() -> bool:
            return self.broken or len(self.posts.get(number, {})) == self.world_size

        with self.condition:
            assert self.condition.wait_for(complete, _PATIENCE_SECONDS), "a rank did not come"
            assert not self.broken, "another rank failed"
            posts = [self.posts[number][rank] for rank in range(self.world_size)]
        assert len({what for what, _ in posts}) == 1, f"the ranks differ: {[w for w, _ in posts]}"
        return [value for _, value in posts]


class ThreadWork:
    def __init__(self, complete: Callable[[], None]) -> None:
        self._complete: Callable[[], None] | None = complete
        self.started_ns = self.ended_ns = 1

    def wait(self) -> None:
        if self._complete is not None:
            complete, self._complete = self._complete, None
            complete()

    def is_completed(self) -> bool:
        return self._complete is None

    def exception(self) -> None:
        return None


class ThreadCommunicator:
    """One rank's end. `issued` lists its operations, `sent_bytes` what leaves this rank.

    An all_reduce is counted as a ring's: twice the tensor, less one part.
    """

    def __init__(self, meeting: _Meeting, rank: int, device: torch.device) -> None:
        self.rank = rank
        self.device = device
        self.world_size = meeting.world_size
        self.issued: list[str] = []
        self.sent_bytes = 0.0
        self._meeting = meeting

    def all_reduce(self, tensor: Tensor, op: str = "sum", *, background: bool = True) -> ThreadWork:
        def combine(tensors: list[Tensor]) -> None:
            total = tensors[0].float() if tensor.dtype != torch.float64 else tensors[0]
            for other in tensors[1:]:
                total = total + other
            assert op in ("sum", "mean")
            tensor.copy_(total / self.world_size if op == "mean" else total)

        self.sent_bytes += 2 * tensor.nbytes * (self.world_size - 1) / self.world_size
        return self._issue(f"all_reduce {op}", tensor, combine)

    def all_gather(self, output: Tensor, input: Tensor, *, background: bool = True) -> ThreadWork:
        assert output.numel() == self.world_size * input.numel()
        self.sent_bytes += input.nbytes * (self.world_size - 1)
        return self._issue(
            "all_gather",
            input,
            lambda tensors: output.view(-1).copy_(torch.cat([t.view(-1) for t in tensors])),
        )

    def all_to_all(self, output: Tensor, input: Tensor, *, background: bool = True) -> ThreadWork:
        assert output.numel() == input.numel()
        assert input.numel() % self.world_size == 0
        self.sent_bytes += input.nbytes * (self.world_size - 1) / self.world_size

        def exchange(tensors: list[Tensor]) -> None:
            parts = [t.view(self.world_size, -1)[self.rank] for t in tensors]
            output.view(-1).copy_(torch.cat(parts))

        return self._issue("all_to_all", input, exchange)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _issue(
        self, name: str, tensor: Tensor, complete: Callable[[list[Tensor]], Any]
    ) -> ThreadWork:
        number, value = len(self.issued), tensor.clone()
        self.issued.append(f"{name} of {tensor.numel()} {tensor.dtype}")
        self._meeting.post(number, self.rank, self.issued[-1], value)

        def run() -> None:
            tensors = self._meeting.all_of(number)
            same = tensor.view(-1).view(torch.uint8), value.view(-1).view(torch.uint8)
            assert torch.equal(*same), f"{name}: the tensor was changed in flight"
            complete(tensors)

        return ThreadWork(run)


def run_threads(
    world_size: int,
    function: Callable[..., Any],
    *args: Any,
    device: torch.device | str = "cpu",
) -> list[Any]:
    """The results of `function(communicator, *args)`, in rank order."""
    meeting = _Meeting(world_size)

    def run(rank: int) -> Any:
        try:
            return function(ThreadCommunicator(meeting, rank, torch.device(device)), *args)
        except BaseException:
            with meeting.condition:
                meeting.broken = True
                meeting.condition.notify_all()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(run, rank) for rank in range(world_size)]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None and "another rank failed" not in str(error):
            raise error
    return [future.result() for future in futures]
