"""The pipeline's threads take one core each beside a loop on the CPU, and change nobody else's."""

from __future__ import annotations

import threading

import pytest
import torch

from pyparallel.data import Prefetcher
from pyparallel.data.threads import PipelineThread


def number_in_a_new_thread() -> int:
    numbers: list[int] = []
    thread = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return numbers[0]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("number", [1, 3])
def test_each_keeps_to_one_core_and_all_others_keep_theirs(number) -> None:
    torch.set_num_threads(number)
    seen: list[int] = []

    def loader():
        for _ in range(3):
            seen.append(torch.get_num_threads())
            yield None

    def function(batch):
        seen.append(torch.get_num_threads())

    prefetcher = Prefetcher(loader(), preprocess=function, workers=2)
    for _ in prefetcher:
        assert torch.get_num_threads() == number
        assert number_in_a_new_thread() == number
    assert seen == [1] * 6


@pytest.mark.usefixtures("threads")
def test_beside_a_gpu_they_take_what_torch_gives() -> None:
    torch.set_num_threads(3)
    seen: list[object] = []
    thread = PipelineThread(
        "of a test",
        lambda one: seen.append((one, torch.get_num_threads())),
        (5,),
        on_failure=seen.append,
        on_one_core=False,
    )
    thread.start()
    thread.join()
    assert seen == [(5, 3)]


def test_what_a_thread_raises_is_told() -> None:
    told: list[BaseException] = []

    def fail() -> None:
        raise SystemExit(4)

    thread = PipelineThread("of a test", fail, (), on_failure=told.append, on_one_core=True)
    thread.start()
    thread.join()
    assert [error.code for error in told] == [4]  # type: ignore[attr-defined]
