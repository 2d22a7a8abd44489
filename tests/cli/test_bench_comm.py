"""`python -m pyparallel bench comm`: every row is right, or there is no row."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import ranks
from pyparallel.cli import bench_comm, main
from pyparallel.cli.arguments import ALL_DTYPES
from pyparallel.cli.collectives import COLLECTIVES, Case
from pyparallel.comm import ShmCommunicator

ONE_CASE = ["--collective", "all_reduce", "-b", "400", "-e", "400", "--tensors", "ordinary"]
QUICK = ["--rounds", "2", "--milliseconds", "1"]
ROOT = Path(__file__).parents[2]


def run_rank(arguments):
    return bench_comm.main([*arguments, *QUICK])


def rows_of(world_size, *arguments, path):
    codes = ranks.run_ranks(world_size, run_rank, [*arguments, "--rows", str(path)])
    assert codes == [0] * world_size
    return json.loads(path.read_text())


def check(row, world_size):
    dtype = ALL_DTYPES[row["dtype"]]
    case = Case.of_bytes(row["collective"], row["num_bytes"], dtype, "sum", world_size)
    assert case.numel == row["elements"]
    assert case.num_bytes == row["num_bytes"]
    seconds = row["microseconds"] / 1e6
    assert row["algbw"] == pytest.approx(row["num_bytes"] / seconds / 1e9)
    assert row["busbw"] == pytest.approx(case.busbw(seconds) / 1e9)
    assert 0 < row["low"] <= row["microseconds"] <= row["high"]
    assert row["ratio"] > 0
    assert (row["ranks"], row["errors"]) == (world_size, 0)


def test_every_collective_is_measured_every_way(tmp_path):
    sizes = ["-b", "64", "-e", "40K", "-f", "625"]
    rows = rows_of(2, *sizes, "--op", "sum", "min", path=tmp_path / "rows")
    contestants = ["pyparallel", "pyparallel, shared", "torch gloo"]
    cases = [
        (name, op, num_bytes)
        for name, collective in COLLECTIVES.items()
        for op in (("sum", "min") if collective.combines else ("",))
        for num_bytes in (64, 40000)
    ]
    assert [(row["collective"], row["op"], row["num_bytes"]) for row in rows] == [
        case for case in cases for _ in contestants
    ]
    assert [row["contestant"] for row in rows] == contestants * len(cases)
    for row in rows:
        check(row, 2)
        assert row["contestant"] != "torch gloo" or row["ratio"] == 1


def test_algorithms_dtypes_and_backends_are_chosen(tmp_path):
    line = (
        "--collective all_reduce broadcast -b 3000 -e 3000 --dtype bf16 fp64 --op mean"
        " --algorithm direct ring --backend gloo pyparallel --tensors shared"
    )
    rows = rows_of(3, *line.split(), path=tmp_path / "rows")
    found = [(row["collective"], row["dtype"], row["contestant"]) for row in rows]
    peers = ["torch gloo", "torch pyparallel, shared"]
    reduced = ["pyparallel direct, shared", "pyparallel ring, shared", *peers]
    assert found == [
        (name, dtype, contestant)
        for name, contestants in (
            ("all_reduce", reduced),
            ("broadcast", ["pyparallel, shared", *peers]),
        )
        for dtype in ("bf16", "fp64")
        for contestant in contestants
    ]
    for row in rows:
        check(row, 3)


def test_a_process_starts_its_ranks_and_prints_and_saves_their_rows(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "rows.json"
    code = main(["bench", "comm", *ONE_CASE, *QUICK, "--ranks", "3", "--json", str(path)])
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert [row["ranks"] for row in json.loads(path.read_text())] == [3, 3]
    assert "busbw" in printed.out
    assert [row["contestant"] for row in json.loads(path.read_text())] == [
        "pyparallel",
        "torch gloo",
    ]
    assert all(name in printed.out for name in ("pyparallel", "torch gloo"))


def run_and_listen(arguments):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = run_rank(arguments)
    return code, " ".join(said.getvalue().split())


def run_faulty_rank(arguments, faulty_rank, first_wrong_call):
    right = ShmCommunicator.all_reduce
    calls = []

    class Wrong:
        def __init__(self, work, tensor):
            self.work, self.tensor = work, tensor

        def wait(self):
            self.work.wait()
            self.tensor[-1] += 1

    def all_reduce(self, tensor, *options, **more):
        work = right(self, tensor, *options, **more)
        calls.append(work)
        wrong = self.rank == faulty_rank and len(calls) >= first_wrong_call
        return Wrong(work, tensor) if wrong else work

    ShmCommunicator.all_reduce = all_reduce
    return run_and_listen(arguments)


@pytest.mark.parametrize(
    ("faulty_rank", "first_wrong_call", "when"),
    [(0, 1, "all_reduce"), (1, 1, "all_reduce"), (1, 3, "after the last round: all_reduce")],
)
def test_a_wrong_result_fails_the_run_with_its_first_wrong_element(
    faulty_rank, first_wrong_call, when, tmp_path
):
    rows = tmp_path / "rows"
    arguments = [*ONE_CASE, "--rows", str(rows)]
    with ranks.Job(2, run_faulty_rank, arguments, faulty_rank, first_wrong_call) as job:
        code, said = job.outcomes()[faulty_rank].value
    assert code == 1
    assert said.startswith(f"python -m pyparallel bench comm on rank {faulty_rank}: {when}")
    assert "through pyparallel: 1 of 100 elements are wrong; element 99 is" in said
    assert not rows.exists()


def run_beside_a_peer_that_cannot(arguments):
    right = dist.all_reduce

    def refuse(tensor, *rest, **more):
        if tensor.dtype == torch.bfloat16:
            raise RuntimeError("not for these tensors\nand a trace")
        return right(tensor, *rest, **more)

    dist.all_reduce = refuse
    return run_and_listen(arguments)


def test_a_peer_that_cannot_is_left_out_and_that_is_said(tmp_path):
    arguments = [*ONE_CASE, "--dtype", "bf16", "--rows", str(tmp_path / "rows")]
    (code, said), other = ranks.run_ranks(2, run_beside_a_peer_that_cannot, arguments)
    assert (code, other[0]) == (0, 0)
    (row,) = json.loads((tmp_path / "rows").read_text())
    assert (row["contestant"], row["ratio"]) == ("pyparallel", None)
    assert "torch gloo takes no part in all_reduce of 400 B bf16, 2 ranks: not for" in said
    assert "trace" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--begin 8 --end 4", "--end must be at least --begin, 8, but is 4"),
        ("--begin 8Q", "'8Q' is not like 1000, 8K, 25M or 1G"),
        ("--begin 0", "'0' is not like"),
        ("--factor 1", "--factor must be at least 2, but is 1"),
        ("--ranks 2 1", "--ranks must be at least 2, but is 1"),
        ("--backend nccl", "--backend nccl is not for tensors on --device cpu"),
        ("--backend gloo --device cuda", "--backend gloo is not for tensors on --device cuda"),
        ("--op mean --dtype fp32 int64", "--op mean is for floating dtypes, but --dtype has int64"),
        ("--collective all_reduced", "all_reduced"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", "comm", *arguments.split()])
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert sentence in printed
    assert printed.startswith("python -m pyparallel bench comm: ")
    assert printed.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_a_sentence(capsys):
    assert main(["bench", "comm", "--device", "cuda"]) == 1
    assert "no GPU" in capsys.readouterr().err
