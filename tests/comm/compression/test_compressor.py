"""What holds for every scheme: the same bits on all ranks, nothing lost, resumed exactly."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressed import (
    SCHEMES,
    SHAPES,
    WITH_FEEDBACK,
    by_name,
    cut,
    errors,
    fill,
    reduce_all,
    steps,
    true_means,
)
from pyparallel.comm import SoloCommunicator
from pyparallel.comm.compression import BF16, FP16, Int8, PowerSGD, Scheme, Slot, TopK, scheme_of
from thread_world import ThreadCommunicator, run_threads

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: type(s).__name__)
each_with_feedback = pytest.mark.parametrize(
    "scheme", WITH_FEEDBACK, ids=lambda s: type(s).__name__
)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@each_scheme
@settings(max_examples=15)
@given(
    world_size=st.integers(2, 4),
    seed=st.integers(0, 1 << 30),
    shapes=st.lists(
        st.lists(st.integers(0, 40), min_size=0, max_size=3).map(tuple), min_size=3, max_size=5
    ).map(tuple),
    dtype=st.sampled_from(DTYPES),
)
def test_ranks_get_the_same_bits_and_nothing_is_lost(
    scheme: Scheme,
    world_size: int,
    seed: int,
    shapes: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
) -> None:
    how: dict[str, Any] = {"parts": (2, len(shapes) - 2), "dtype": dtype, "shapes": shapes}
    outcomes = run_threads(world_size, lambda c: steps(c, scheme, seed, **how))
    means = true_means(world_size, seed, **how)
    for results, _ in outcomes[1:]:
        for result, first in zip(results, outcomes[0][0], strict=True):
            for name in first:
                assert torch.equal(bits(result[name]), bits(first[name])), name
    results = outcomes[0][0]
    for name in results[0]:
        owed = [error[name].double() for _, error in outcomes if name in error]
        got = sum(result[name] for result in results) + sum(owed) / world_size
        expected = sum(mean[name] for mean in means)
        largest = max(
            [1.0, *(float(mean[name].abs().max()) for mean in means if mean[name].numel())]
        )
        torch.testing.assert_close(
            got,
            expected,
            rtol=0,
            atol=8 * rounding_of(scheme, dtype) * largest,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def rounding_of(scheme: Scheme, dtype: torch.dtype) -> float:
    """Of the coarsest format that values pass without feedback; some for float32's sums."""
    wire = {FP16: torch.float16, BF16: torch.bfloat16}.get(type(scheme), torch.float32)
    return max(torch.finfo(dtype).eps, torch.finfo(wire).eps, 16 * torch.finfo(torch.float32).eps)


@each_scheme
def test_large_and_tiny_values_travel(scheme: Scheme, seed: int) -> None:
    """Each of one magnitude: the result is the mean up to the scheme's rounding of one step."""

    def one(communicator: ThreadCommunicator, magnitude: float) -> torch.Tensor:
        flat = torch.full((32, 32), magnitude).flatten()  # of rank 1, and all equally large
        scheme.over(communicator).all_reduce(flat, slots=[Slot("p", 0, (32, 32))]).wait()
        return flat / magnitude

    for magnitude in (1e30, 1e4, 1.0, 1e-4, 1e-30):
        if isinstance(scheme, FP16) and magnitude not in (1e4, 1.0, 1e-4):
            continue
        flat = run_threads(2, one, magnitude)[0]
        chosen = flat[flat != 0]
        assert chosen.numel() == (51 if isinstance(scheme, TopK) else 1024), magnitude
        torch.testing.assert_close(chosen, torch.ones_like(chosen), rtol=1e-2, atol=0)


def one_bad_value(
    communicator: ThreadCommunicator, scheme: Scheme, value: float, seed: int
) -> list[dict[str, torch.Tensor]]:
    buckets = cut(SHAPES, 2, 3, 1)
    compressor = scheme.over(communicator)
    results = []
    for step in range(4):
        before = errors(compressor)
        flats = fill(buckets, seed=seed, rank=communicator.rank, step=step)
        kept = {name: error.clone() for name, error in before.items()}
        if step == 1 and communicator.rank == 1:
            flats[0][1:1200:5] = value  # more than TopK takes
        reduce_all(compressor, flats, buckets)
        assert all(torch.equal(before[name], kept[name]) for name in kept)  # a snapshot
        assert all(bool(e.isfinite().all()) for e in errors(compressor).values())
        assert float(flats[0][1207:1216].abs().max()) == 0  # the gap
        results.append(by_name(flats, buckets))
    return results


@each_scheme
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_inf_and_nan_reach_all_ranks_and_leave_no_trace(
    scheme: Scheme, value: float, seed: int
) -> None:
    for results in run_threads(3, one_bad_value, scheme, value, seed):
        finite = [bool(torch.cat(list(result.values())).isfinite().all()) for result in results]
        assert finite == [True, False, True, True]
        assert bool(results[1]["p5"].isfinite().all())  # of another bucket


def interrupted(
    communicator: ThreadCommunicator, scheme: Scheme, seed: int, new_parts: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """Two runs of six steps, one of which is saved and loaded again after three."""
    results = []
    for interrupt in (False, True):
        buckets = cut(SHAPES, 2, 3, 1)
        compressor = scheme.over(communicator)
        for step in range(6):
            if interrupt and step == 3:
                file = io.BytesIO()
                torch.save(compressor.state_dict(), file)
                file.seek(0)
                compressor = scheme.over(communicator, names=[f"p{i}" for i in range(len(SHAPES))])
                compressor.load_state_dict(torch.load(file))
                buckets = cut(SHAPES, *new_parts)
            flats = fill(buckets, seed=seed, rank=communicator.rank, step=step)
            reduce_all(compressor, flats, buckets)
        owed = errors(compressor)
        results.append((by_name(flats, buckets), owed))
    (whole, owed), (resumed, owed_resumed) = results
    assert set(owed) == set(owed_resumed)
    for name in whole:
        if new_parts == (2, 3, 1):
            assert torch.equal(whole[name], resumed[name]), name
    assert not owed or max(float(error.abs().max()) for error in owed.values()) > 0
    for name in owed:
        if new_parts == (2, 3, 1):
            assert torch.equal(owed[name], owed_resumed[name]), name
    return resumed


@each_scheme
def test_a_resumed_run_goes_on_bit_for_bit(scheme: Scheme, seed: int) -> None:
    run_threads(2, interrupted, scheme, seed, (2, 3, 1))


@each_with_feedback
def test_a_resumed_run_may_cut_its_buckets_otherwise(scheme: Scheme, seed: int) -> None:
    first, second = run_threads(2, interrupted, scheme, seed, (1, 1, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)


def cut_anew(communicator: ThreadCommunicator, scheme: Scheme, seed: int) -> Any:
    compressor = scheme.over(communicator)
    results = []
    for step, parts in enumerate([(2, 3, 1), (2, 3, 1), (6,), (2, 1, 3), (2, 3, 1)]):
        buckets = cut(SHAPES, *parts)
        flats = fill(buckets, seed=seed, rank=communicator.rank, step=step)
        reduce_all(compressor, flats, buckets)
        results.append(by_name(flats, buckets))
    return results, errors(compressor)


@each_with_feedback
def test_errors_move_with_their_parameters_when_buckets_are_cut_anew(
    scheme: Scheme, seed: int
) -> None:
    outcomes = run_threads(2, cut_anew, scheme, seed)
    means = true_means(2, seed)
    for name in means[0]:
        got = sum(result[name] for result in outcomes[0][0])
        for _, error in outcomes:
            if name in error:
                got = got + error[name].double() / 2
        expected = sum(mean[name] for mean in means)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def in_the_same_order(communicator: ThreadCommunicator, scheme: Scheme) -> list[str]:
    """A bucket again before its last work was waited for, an uncompressed one, an early state."""
    compressor = scheme.over(communicator)
    a, b = torch.ones(600), torch.full((600,), 2.0)
    slots = [Slot("p", 0, (30, 20))]
    works = [compressor.all_reduce(a, bucket=0, slots=slots)]
    works.append(compressor.all_reduce(b, bucket=0, slots=slots))
    compressor.state_dict()
    assert all(work.is_completed() for work in works)
    for work in works:
        work.wait()
        assert work.exception() is None
    return communicator.issued


@each_scheme
def test_a_bucket_in_use_is_finished_first(scheme: Scheme) -> None:
    first, second = run_threads(2, in_the_same_order, scheme)
    assert first == second


def refusals(communicator: ThreadCommunicator, scheme: Scheme) -> None:
    name = type(scheme).__name__
    compressor = scheme.over(communicator, names=["p0"])
    with pytest.raises(TypeError, match=rf"{name} compresses.*'p0' is torch.float64"):
        compressor.all_reduce(torch.ones(5, dtype=torch.float64), slots=[Slot("p0", 0, (5,))])
    with pytest.raises(TypeError, match=r"'p2' is torch.int32"):
        compressor.all_reduce(torch.ones(5, dtype=torch.int32), slots=[Slot("p2", 0, (5,))])
    for shape, flat in ((r"\(3,\)", torch.ones(6)[::2]), (r"\(2, 3\)", torch.ones(2, 3))):
        with pytest.raises(ValueError, match=rf"one dimension; that of 'p0' has shape {shape}"):
            compressor.all_reduce(flat, slots=[Slot("p0", 0, (3,))])
    state = compressor.state_dict()
    for key, other in (("rank", 7), ("world_size", 9), ("scheme", "Zip")):
        with pytest.raises(ValueError, match=rf"of {key} {other}, this is {state[key]}"):
            compressor.load_state_dict({**state, key: other})
    stranger = {**state, "tensors": {"error": {"p9": torch.zeros(3)}}}
    with pytest.raises(ValueError, match=r"error is of 'p9', which the model lacks"):
        compressor.load_state_dict(stranger)
    if scheme in WITH_FEEDBACK:
        compressor.all_reduce(torch.ones(600), slots=[Slot("p0", 0, (30, 20))]).wait()
        before = compressor.state_dict()
        with pytest.raises(ValueError, match=r"'p0' has shape \(3,\), this run's has \(600,\)"):
            compressor.load_state_dict({**state, "tensors": {"error": {"p0": torch.zeros(3)}}})
        after = compressor.state_dict()["tensors"]["error"]["p0"]
        assert torch.equal(after, before["tensors"]["error"]["p0"])


@each_scheme
def test_what_does_not_fit_is_refused_with_both_values(scheme: Scheme) -> None:
    run_threads(2, refusals, scheme)


@each_scheme
def test_one_rank_alone_loses_nothing(scheme: Scheme) -> None:
    flat = torch.tensor([1e-30, 3.14159265, 1e30])
    compressor = scheme.over(SoloCommunicator(torch.device("cpu")))
    compressor.all_reduce(flat, slots=[Slot("p", 0, (3,))]).wait()
    assert flat.tolist() == torch.tensor([1e-30, 3.14159265, 1e30]).tolist()
    assert compressor.state_dict()["tensors"] == {}


def test_slots_are_in_memory_order() -> None:
    image = torch.empty(8, 3, 5, 4).to(memory_format=torch.channels_last)
    assert Slot.of("p", 16, image) == Slot("p", 16, (8, 5, 4, 3))
    assert Slot.of("p", 0, torch.empty(3, 7).t()) == Slot("p", 0, (3, 7))
    assert Slot.of("p", 0, torch.empty(6, 4, 2)[..., 0]) == Slot("p", 0, (6, 4))  # copied
    assert Slot.of("p", 5, torch.tensor(1.0)).end == 6
    assert Slot.of("p", 5, torch.empty(3, 0)).end == 5


def test_names_and_schemes_are_told_apart() -> None:
    assert scheme_of("int8") == Int8()
    assert scheme_of(TopK(0.5)) == TopK(0.5)
    with pytest.raises(ValueError, match="'zip' is none of fp16, bf16, int8"):
        scheme_of("zip")  # type: ignore[arg-type]
    for wrong in (TopK, 8, None):
        with pytest.raises(TypeError, match="a name or a scheme such as"):
            scheme_of(wrong)  # type: ignore[arg-type]
    for ratio in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"it is {ratio}"):
            TopK(ratio)
    with pytest.raises(ValueError, match="they are 0 and 0"):
        PowerSGD(0)
    with pytest.raises(ValueError, match="they are 1 and -1"):
        PowerSGD(1, start_step=-1)
