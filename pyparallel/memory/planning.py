"""Planned placement: steps that repeat are placed beforehand, as one, and served from an arena."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyparallel._native import core


@dataclass(frozen=True)
class Divergence:
    """A step that was not as planned, from there on served by best fit.

    Attributes:
        reason: "other request" than planned; "still alive", a block on the bytes of the next one,
            or over the end of a step; "too many requests"; "too few requests"; "no memory" for the
            arena.
        step: its number, from 0.
        request: its number in the step, from 0.
        expected: size in bytes (a multiple of 512) and stream of the planned request; (0, 0): none.
        got: likewise of the request that came, or of the block that is still alive.
    """

    reason: str
    step: int
    request: int
    expected: tuple[int, int]
    got: tuple[int, int]


@dataclass(frozen=True)
class PlanStatistics:
    """What became of the plan; sizes in bytes.

    Attributes:
        state: "waiting", "recording", "planning", "ready", "taking", "serving" or "retiring".
        steps: number of steps begun.
        planned_steps: of those, served from the plan to the end.
        requests: number of allocations in steps that had a plan.
        planned_requests: of those, served from the arena.
        bytes: of those allocations.
        planned_bytes: of those, from the arena.
        plan_bytes: what the plan needs.
        plan_lower_bound: the most planned bytes alive at once; no plan needs less.
        arena_bytes: taken for the plan now.
        live_bytes: of those, in use.
        live_blocks: number of blocks there.
        divergences: number of steps that were not as planned.
        latest: the last of them.
    """

    state: str
    steps: int
    planned_steps: int
    requests: int
    planned_requests: int
    bytes: int
    planned_bytes: int
    plan_bytes: int
    plan_lower_bound: int
    arena_bytes: int
    live_bytes: int
    live_blocks: int
    divergences: int
    latest: tuple[Divergence, ...]

    @property
    def planned_share(self) -> float:
        """Of the bytes asked for in steps with a plan, the share that came from the arena."""
        return self.planned_bytes / self.bytes if self.bytes else 0.0

    @property
    def utilisation(self) -> float:
        """How much of the plan is in use when most of it is; 1 is the best there can be."""
        return self.plan_lower_bound / self.plan_bytes if self.plan_bytes else 1.0


class PlannedSteps:
    """The steps of one pool. MemoryPool.plan_steps() makes it."""

    def __init__(self, native: core.PlannedPlacement) -> None:
        self._native = native

    @contextmanager
    def step(self) -> Iterator[None]:
        """Marks one step, of any thread: `with planned.step(): ...`.

        The end of the second of two equal steps plans, which may take a second. In the next one the
        arena is taken, once, where the fewest planned blocks are alive: that waits for the device.

        Raises:
            ValueError: within another step.
        """
        self._native.begin_step()
        try:
            yield
        finally:
            self._native.end_step()

    def statistics(self) -> PlanStatistics:
        """What became of the plan."""
        found = self._native.statistics()
        latest = tuple(Divergence(*divergence) for divergence in found.pop("latest"))
        return PlanStatistics(latest=latest, **found)


def plan_offsets(
    lifetimes: Sequence[tuple[int, int, int]], period: int, *, budget: int = core.PLAN_BUDGET
) -> tuple[list[int], int, int]:
    """Places blocks whose lifetimes are known, so that the whole is small.

    Args:
        lifetimes: of each block the size in bytes, a multiple of 512, its birth (below `period`)
            and its death, in (birth, birth + period]: time runs in a circle.
        period: the length of that circle.
        budget: about how many operations to search, of some 10 ns each.

    Returns:
        The offset of each block, the bytes needed, and the most bytes alive at once. The same on
        every machine.

    Raises:
        ValueError: a lifetime that is not as above.
    """
    return core.plan_offsets(list(lifetimes), period, budget)
