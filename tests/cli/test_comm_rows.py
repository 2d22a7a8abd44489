"""A row of `bench comm`: the ratio's direction, a refusal by one rank alone, the table."""

from types import SimpleNamespace

from rich.console import Console

from pyparallel.cli.comm_rows import Row, refusal, table
from pyparallel.cli.timer import Contestant
from pyparallel.cli.ways import Entry


class Vote:
    """Ranks of which another one has failed, or not."""

    def __init__(self, other):
        self.other = other

    def slowest(self, seconds):
        return [max(own, self.other) for own in seconds]


def entry(error=None):
    def run():
        if error is not None:
            raise error

    return Entry(Contestant("peer", run), run)


def test_one_rank_that_cannot_keeps_all_from_taking_part():
    assert refusal(entry(), Vote(0.0)) is None
    assert refusal(entry(), Vote(1.0)) == "another rank cannot"
    assert refusal(entry(RuntimeError("no bf16\nat x.cpp")), Vote(0.0)) == "no bf16"


def test_the_table_has_every_number_of_every_row():
    numbers = SimpleNamespace(microseconds=1234.6, low=9.876, high=34567.8, algbw=2.5, busbw=3.75)
    row = Row(4, "all_gather", "torch gloo", 4096, 1024, "fp32", "", **vars(numbers), ratio=None)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table([row, row]))
    text = console.export_text()
    for cell in ("all_gather", "4096", "1024", "1235", "9.88 to 34568", "2.5", "3.75"):
        assert text.count(cell) >= 2, cell
