"""The timer: whose turn it is, what counts as time, and what the rounds come to."""

import gc

import pytest

from pyparallel.cli.timer import Contestant, Measurement, Spread, Timer, WrongResultError


class Stage:
    """A clock that only moves when somebody works, and a log of who did."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def work(self, name, seconds):
        """A callable that takes the next of `seconds`, the last one for ever."""
        left = list(seconds)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


class TwoRanks:
    """This rank beside another one that takes `other` seconds for everything."""

    world_size = 2

    def __init__(self, stage, other):
        self.barrier = stage.work("barrier", [1000.0])
        self.other = other

    def slowest(self, seconds):
        return [max(own, self.other) for own in seconds]


def fine():
    pass


@pytest.mark.parametrize("names", ["AB", "ABC"])
def test_every_order_of_the_contestants_takes_its_turn(names):
    stage = Stage()
    orders = {2: 2, 3: 6}[len(names)]
    timer = Timer(rounds=2 * orders, warm_up=0, clock=stage.clock)
    timer.compare([Contestant(name, stage.work(name, [1.0])) for name in names], verify=fine)
    rounds = ["".join(stage.log[i : i + len(names)]) for i in range(0, len(stage.log), len(names))]
    assert len(rounds) == 2 * orders
    assert len(set(rounds)) == orders
    assert rounds[:orders] == rounds[orders:]
    for name in names:
        assert sum(order[0] == name for order in rounds) == 2 * orders / len(names)
    assert rounds[0] == names
    assert rounds[-1] == names[::-1]


@pytest.mark.parametrize("number", [1, 4, 5])
def test_each_of_many_contestants_has_every_place_equally_often(number):
    stage = Stage()
    names = "ABCDE"[:number]
    rounds = 2 * number
    contestants = [Contestant(name, stage.work(name, [1.0])) for name in names]
    Timer(rounds=rounds, warm_up=0, clock=stage.clock).compare(contestants, verify=fine)
    orders = ["".join(stage.log[i * number : (i + 1) * number]) for i in range(rounds)]
    for place in range(number):
        assert sorted(order[place] for order in orders) == sorted(2 * names)
    if number > 1:
        assert len(set(orders)) == rounds


def test_two_contestants_alternate_and_swap():
    stage = Stage()
    pair = [Contestant(name, stage.work(name, [1.0])) for name in "AB"]
    Timer(rounds=4, warm_up=0, clock=stage.clock).compare(pair, verify=fine)
    assert "".join(stage.log) == "ABBAABBA"


def test_times_and_ratios_are_medians_over_the_counted_rounds():
    stage = Stage()
    ours = Contestant("ours", stage.work("ours", [50.0, 50.0, 1.0, 2.0, 30.0]))
    peer = Contestant("peer", stage.work("peer", [70.0, 70.0, 3.0, 8.0, 60.0]))
    timer = Timer(rounds=3, warm_up=2, clock=stage.clock)
    measurement = timer.compare([ours, peer], verify=fine)
    assert measurement.seconds == {"ours": [1.0, 2.0, 30.0], "peer": [3.0, 8.0, 60.0]}
    assert measurement.time("ours").median == 2.0
    assert measurement.time("peer").median == 8.0
    # 3, 4 and 2 by round: not 8 / 2, the ratio of the medians of unpaired rounds.
    assert measurement.ratio("peer", "ours").median == 3.0
    assert measurement.difference("peer", "ours") == [2.0, 6.0, 30.0]
    assert measurement.copy_bandwidth() is None


def test_a_spread_is_the_middle_80_percent():
    spread = Spread.of(range(101))
    assert (spread.p10, spread.median, spread.p90) == (10, 50, 90)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_preparing_and_waiting_for_the_other_ranks_is_not_timed():
    stage = Stage()
    one = Contestant("one", stage.work("run", [1.0]), stage.work("prepare", [100.0]))
    timer = Timer(rounds=2, warm_up=0, ranks=TwoRanks(stage, other=0.5), clock=stage.clock)
    assert timer.compare([one], verify=fine).seconds == {"one": [1.0, 1.0]}
    assert stage.log == ["prepare", "barrier", "run"] * 2


def test_the_time_of_a_round_is_that_of_its_slowest_rank():
    stage = Stage()
    one = Contestant("one", stage.work("run", [1.0, 9.0, 2.0]))
    timer = Timer(rounds=3, warm_up=0, ranks=TwoRanks(stage, other=4.0), clock=stage.clock)
    assert timer.compare([one], verify=fine).seconds == {"one": [4.0, 9.0, 4.0]}


def test_short_runs_are_repeated_each_freshly_prepared_until_a_round_is_long_enough():
    stage = Stage()
    one = Contestant("one", stage.work("run", [0.25]), stage.work("prepare", [100.0]))
    timer = Timer(rounds=1, warm_up=0, round_seconds=10.0, clock=stage.clock)
    measurement = timer.compare([one], verify=fine)
    assert measurement.seconds == {"one": [0.25]}
    assert stage.log[-80:] == ["prepare", "run"] * 40


def test_the_ranks_start_every_one_of_repeated_runs_together():
    stage = Stage()
    one = Contestant("one", stage.work("run", [1.0]), stage.work("prepare", [100.0]))
    ranks = TwoRanks(stage, other=1.0)
    timer = Timer(rounds=1, warm_up=0, round_seconds=4.0, ranks=ranks, clock=stage.clock)
    assert timer.compare([one], verify=fine).seconds == {"one": [1.0]}
    assert len(stage.log) >= 3 * 4
    assert stage.log == ["prepare", "barrier", "run"] * (len(stage.log) // 3)


def test_a_copy_of_known_length_gives_the_bandwidth_of_all_ranks():
    stage = Stage()

    def clock():
        stage.now += 1.0  # nothing else moves it: whatever is timed takes a second
        return stage.now

    timer = Timer(rounds=3, warm_up=1, ranks=TwoRanks(stage, other=2.0), clock=clock)
    measurement = timer.compare([Contestant("one", fine)], verify=fine, copied_bytes=4096)
    assert measurement.copy_bandwidth() == 2 * 4096 / 2.0
    assert measurement.time("one").median == 2.0


@pytest.mark.parametrize("enabled", [True, False])
def test_a_wrong_result_is_not_timed(enabled):
    stage = Stage()

    def verify():
        assert enabled, "3 is not 4"

    timer = Timer(rounds=1, clock=stage.clock)
    one = Contestant("one", stage.work("one", [1.0]))
    if enabled:
        timer.compare([one], verify=verify)
        return
    with pytest.raises(WrongResultError, match="3 is not 4"):
        timer.compare([one], verify=verify)
    assert stage.log == []


def test_garbage_is_collected_again_after_a_contestant_that_raises():
    def fail():
        assert not gc.isenabled()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Timer(rounds=1).compare([Contestant("one", fail)], verify=fine)
    assert gc.isenabled()


def test_ratios_refuse_contestants_of_different_lengths():
    with pytest.raises(ValueError, match="zip"):
        Measurement({"a": [1.0], "b": [1.0, 2.0]}).ratio("a", "b")
