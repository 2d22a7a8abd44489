"""Who waits for whom is found from what all ranks called last, whatever they called."""

from __future__ import annotations

import random
from typing import Any

import pytest

from pyparallel.comm._who_waits import find_waits, in_words


def collective(tag: int, text: str = "all_reduce(9 x float32)", state: str = "started") -> Any:
    return {
        "number": tag,
        "kind": text.split("(")[0],
        "peer": None,
        "tag": tag,
        "state": state,
        "operation": f"{text} #{tag}",
    }


def message(kind: str, peer: int, state: str = "started") -> Any:
    text = f"{kind}(3 x float32, rank {peer}, tag 0)"
    entry = {"number": 99, "kind": kind, "peer": peer, "tag": 0, "state": state}
    return {**entry, "operation": text}


def ranks_of(*operations: Any) -> list[Any]:
    """A rank of each list of operations; None: it does not answer."""
    ranks = [
        {
            "rank": rank,
            "left": False,
            "process": None if own is None else 1,
            "operations": own or [],
        }
        for rank, own in enumerate(operations)
    ]
    find_waits(ranks)
    return ranks


def waited_for(ranks: list[Any]) -> list[list[int]]:
    return [[wait["rank"] for wait in entry["waits"]] for entry in ranks]


def test_all_wait_for_the_rank_that_is_one_operation_behind(seed: int) -> None:
    choose = random.Random(seed)
    world_size, last = choose.randint(2, 40), choose.randint(2, 1000)
    behind = choose.randrange(world_size)
    done = [collective(tag, state="completed") for tag in range(max(1, last - 60), last)]
    ranks = ranks_of(*(done if rank == behind else [*done, collective(last)]
                       for rank in range(world_size)))  # fmt: skip
    expected = [[] if rank == behind else [behind] for rank in range(world_size)]
    assert waited_for(ranks) == expected
    if behind < 8:
        assert (
            f"rank {behind} is elsewhere, its last call was all_reduce(9 x float32) #{last - 1}"
            in in_words(ranks)
        )
    assert (f"and {world_size - 8} ranks more" in in_words(ranks)) == (world_size > 8)


@pytest.mark.parametrize("missing", [None, []], ids=["does not answer", "has called nothing"])
def test_a_rank_without_operations_is_waited_for(missing: Any) -> None:
    ranks = ranks_of([collective(1)], missing, [collective(1)])
    assert waited_for(ranks) == [[1], [], [1]]
    words = "does not answer" if missing is None else "has called nothing"
    assert in_words(ranks) == (
        f"rank 0 waits for rank 1 in all_reduce(9 x float32) #1; rank 1 {words}; "
        "rank 2 waits for rank 1 in all_reduce(9 x float32) #1"
    )


def test_a_rank_that_left_is_waited_for() -> None:
    ranks = ranks_of([collective(4)], None)
    ranks[1]["left"] = True
    assert in_words(ranks).endswith("rank 1 has left")


@pytest.mark.parametrize(
    ("other", "waits"),
    [
        ("all_reduce(9 x float32)", [[], []]),
        ("all_reduce(...)", [[], []]),  # not issued yet
        ("all_reduce(8 x float32)", [[1], [0]]),
        ("barrier()", [[1], [0]]),
    ],
)
def test_ranks_that_call_different_things_wait_for_each_other(other: str, waits: Any) -> None:
    ranks = ranks_of([collective(5)], [collective(5, other)])
    assert waited_for(ranks) == waits
    assert ("in a circle: 0 -> 1 -> 0" in in_words(ranks)) == (waits == [[1], [0]])


def test_sizes_of_an_exchange_may_differ() -> None:
    one, other = collective(2, "all_to_all(3 x uint8)"), collective(2, "all_to_all(5 x uint8)")
    assert waited_for(ranks_of([one], [other])) == [[], []]


def test_what_has_failed_is_still_what_was_waited_for() -> None:
    assert waited_for(ranks_of([collective(2, state="failed")], [])) == [[1], []]


def test_what_is_forgotten_was_called() -> None:
    """The other rank is so far ahead that its record does not reach back."""
    ahead = [collective(tag, state="completed") for tag in range(100, 164)]
    assert waited_for(ranks_of([collective(7)], ahead)) == [[], []]


def test_a_circle_of_messages_is_named() -> None:
    ranks = ranks_of(*([message("recv", (rank + 1) % 5)] for rank in range(5)))
    assert in_words(ranks).endswith("in a circle: 0 -> 1 -> 2 -> 3 -> 4 -> 0")
    line = ranks_of([message("recv", 1)], [message("recv", 2)], [message("recv", -1)], [])
    assert "circle" not in in_words(line)
    assert "rank 2 waits for any rank in recv" in in_words(line)


def test_a_long_chain_is_no_deep_recursion() -> None:
    ranks = ranks_of(*([message("recv", rank + 1)] for rank in range(1500)), [])
    assert "circle" not in in_words(ranks)
