"""NumPy from a pool: whole workloads, with the numbers of NumPy's own allocator."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyparallel.memory import MemoryPool, use_in_numpy

handler_of = np._core.multiarray.get_handler_name if hasattr(np, "_core") else None
OURS = "pyparallel"


def live(pool: MemoryPool) -> int:
    return pool.statistics().live


def workload(seed: int) -> list[np.ndarray]:
    """Sorting, products, concatenation, text, records and a resize: what a program does."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(61, 47))
    words = np.array(["a", "longer", "words"] * 11)
    grown = np.arange(10.0)
    grown.resize(5000, refcheck=False)
    grown.resize(3, refcheck=False)
    records = np.zeros(7, dtype=[("x", "f4"), ("y", "i8")])
    records["y"] = np.arange(7)
    return [
        np.sort(matrix, axis=0),
        matrix @ matrix.T,
        np.concatenate([matrix, matrix[::-1]]),
        np.unique(words),
        np.linalg.svd(matrix)[1],
        np.fft.fft(matrix[0]),
        np.where(matrix > 0, matrix, 0.0).cumsum(),
        grown,
        records,
        np.array([], dtype=np.float32),
        np.array(3.5),
    ]


def test_a_workload_has_numpys_results_and_gives_all_back(seed: int) -> None:
    expected = workload(seed)
    pool = MemoryPool()
    with use_in_numpy(pool):
        found = workload(seed)
        assert pool.statistics().allocations > 20
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.base is not None or one.ctypes.data % 512 == 0
    del found, one
    assert live(pool) == 0


def test_an_array_goes_back_where_it_came_from() -> None:
    pool, other = MemoryPool(), MemoryPool()
    before = np.arange(1000)
    with use_in_numpy(pool):
        inside = np.arange(1000)
        with use_in_numpy(other):
            inner = np.arange(1000)
            before.resize(2000, refcheck=False)
            inside.resize(2000, refcheck=False)
        again = np.arange(1000)
    after = np.arange(1000)
    names = [handler_of(array) == OURS for array in (before, inside, inner, again, after)]
    assert names == [False, True, True, True, False]
    assert (live(pool), live(other)) == (16384 + 8192, 8192)
    del inner, inside, again
    assert (live(pool), live(other)) == (0, 0)


@pytest.mark.parametrize("shape", [0, 1, 511, 513, (0, 3), (1 << 22) + 1])
def test_zeros_are_zero_where_others_wrote(shape: int | tuple[int, ...]) -> None:
    pool = MemoryPool()
    with use_in_numpy(pool):
        for _ in range(3):
            dirty = np.full(shape, 255, dtype=np.uint8)
            assert dirty.ctypes.data % 512 == 0
            del dirty
            zeros = np.zeros(shape, dtype=np.uint8)
            assert not zeros.any()
            assert zeros.ctypes.data % 512 == 0
            del zeros
    assert live(pool) == 0


@settings(max_examples=30)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["new", "zeros", "resize", "drop"]), st.integers(0, 70_000)),
        max_size=40,
    )
)
def test_contents_survive_what_happens_to_others(steps: list[tuple[str, int]]) -> None:
    pool = MemoryPool()
    follow(steps, pool)
    assert live(pool) == 0


def follow(steps: list[tuple[str, int]], pool: MemoryPool) -> None:
    arrays: list[tuple[np.ndarray, np.ndarray]] = []  # each with a copy made outside
    for step, size in steps:
        if step in ("new", "zeros"):
            with use_in_numpy(pool):
                made = np.empty(size, np.uint8) if step == "new" else np.zeros(size, np.uint8)
            if step == "new":
                made[:] = np.arange(size) % 251
            arrays.append((made, made.copy() if step == "new" else np.zeros_like(made)))
        elif arrays:
            ours, theirs = arrays.pop(size % len(arrays))
            if step == "resize":
                ours.resize(size, refcheck=False)
                theirs.resize(size, refcheck=False)
                arrays.append((ours, theirs))
        for mine, copy in arrays:
            np.testing.assert_array_equal(mine, copy)


def test_where_memory_is_short_numpy_says_so() -> None:
    pool = MemoryPool(limit=4 << 20)
    with use_in_numpy(pool):
        with pytest.raises(MemoryError):
            np.empty(5 << 20, np.uint8)
        with pytest.raises(MemoryError):
            np.zeros(1 << 50, np.uint8)
        array = np.ones(1 << 20, np.uint8)
        with pytest.raises(MemoryError):
            array.resize(8 << 20, refcheck=False)
        assert array.all()  # as it was


def test_the_plug_is_undone_once() -> None:
    pool = MemoryPool()
    plug = use_in_numpy(pool)
    assert handler_of(np.arange(3)) == OURS
    plug.undo()
    assert handler_of(np.arange(3)) != OURS
    with use_in_numpy(pool):
        plug.undo()  # nothing: its time is over
        assert handler_of(np.arange(3)) == OURS
    with pytest.raises(KeyError), use_in_numpy(pool):
        raise KeyError
    assert handler_of(np.arange(3)) != OURS
    assert "host" in repr(plug)
    assert "undone" in repr(plug)


def test_arrays_outlive_the_pools_own_name() -> None:
    with use_in_numpy(MemoryPool()):
        array = np.arange(10_000)
    gc.collect()
    assert array.sum() == 49_995_000
    array.resize(20_000, refcheck=False)
    assert array.sum() == 49_995_000


def test_it_holds_for_its_own_context_only() -> None:
    pool = MemoryPool()
    names: dict[str, str] = {}

    async def task(name: str, inside: bool) -> None:
        if inside:
            use_in_numpy(pool)
        await asyncio.sleep(0)
        names[name] = handler_of(np.arange(3))

    async def both() -> None:
        await asyncio.gather(task("one", True), task("other", False))

    asyncio.run(both())
    assert names["one"] == OURS
    assert names["other"] != OURS
    assert handler_of(np.arange(3)) != OURS


def test_threads_make_and_free_each_others_arrays(seed: int) -> None:
    pool = MemoryPool()
    handed: list[np.ndarray] = []
    failures: list[BaseException] = []

    def work(number: int) -> None:
        random = np.random.default_rng(seed + number)
        try:
            with use_in_numpy(pool):
                for size in random.integers(0, 20_000, size=300):
                    array = np.full(size, number)
                    assert (array == number).all()
                    handed.append(array)
                    if len(handed) > 8:
                        other = handed.pop(0)
                        assert other.size == 0 or (other == other[0]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    handed.clear()
    assert live(pool) == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_memory_of_its_own(seed: int) -> None:
    pool = MemoryPool()
    with use_in_numpy(pool):
        kept, dropped = np.arange(5000), np.arange(5000)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                del dropped  # the copy of the parent's
                assert kept.sum() == 12_497_500
                made = workload(seed)
                del made
                with pytest.raises(MemoryError):
                    kept.resize(50_000, refcheck=False)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert live(pool) == 2 * 40_448
    assert dropped.sum() == kept.sum() == 12_497_500


def test_a_pool_that_numpy_cannot_read_is_refused() -> None:
    pool = MemoryPool()
    pool.device, pool.upstream = 0, "cuda"
    with pytest.raises(ValueError, match="NumPy cannot read cuda memory"):
        use_in_numpy(pool)
