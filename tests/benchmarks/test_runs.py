"""Every benchmark runs from its command line to its JSON, at sizes too small to mean anything."""

import argparse
import importlib

import pytest
import torch

import ranks
from benchmarks import NAMES, __main__, command, optimizer_step, report
from benchmarks.results import Result, rows_from_json
from pyparallel.cli.timer import Measurement

SMALL_GPT = "--layers 1 --width 16 --heads 2 --context 8 --characters 11 --batch 2 --tokens 8"
RUNS = {
    "adamw": ("--tensors 2x[64,64]+3x[5]", ["AdamW fp32, 2x[64,64]+3x[5]"]),
    "adamw_small": ("--tensors 9x[3] --dtype fp16", ["AdamW fp16, 9x[3]"]),
    "adamw_bf16": ("--tensors 1x[1001]", ["AdamW bf16 with fp32 master, 1x[1001]"]),
    "adamw_bf16_states": ("--tensors 1x[1001]", ["AdamW bf16 with bf16 states, 1x[1001]"]),
    "adamw_amp": ("--tensors 1x[1001]+1x[7]", ["AdamW fp32, scaled and clipped, 1x[1001]+1x[7]"]),
    "sgd": ("--tensors 1x[1001]", ["SGD fp32, 1x[1001]"]),
    "adagrad": ("--tensors 1x[1001]", ["Adagrad fp32, 1x[1001]"]),
    "all_reduce_small": ("--ranks 2", ["all_reduce of 1 KiB fp32, 2 ranks, ordinary tensor"]),
    "memory_pool": (
        "--pairs 100",
        [
            f"allocate + free of {what}"
            for what in (
                "2 KiB, 1 thread",
                "2 KiB, 2 threads",
                "4 MiB, 1 thread",
                "2 KiB, 1 thread, the symbols for torch",
            )
        ],
    ),
    "memory_replay": (
        "--events 1000",
        ["1,000 allocations and frees of ten models, replayed"] * 4,
    ),
    "prefetch": (
        "--steps 2 --kibibytes 1 --load-ms 0.5 --step-ms 0.2",
        [
            f"a loader of 0.5 ms {how}, a step of 0.2 ms: added to a step"
            for how in (
                "asleep",
                "without the GIL",
                "holding the GIL",
                "holding the GIL, ours over a DataLoader",
            )
        ],
    ),
}
# The rest of those on several ranks run in ranks that start faster than torchrun's.
IN_RANKS = {
    "all_reduce": (
        "--mebibytes 1 --dtype bf16",
        [
            "all_reduce of 1 MiB bf16, 3 ranks, ordinary tensor",
            "all_reduce of 1 MiB bf16, 3 ranks, tensor of communicator.empty",
        ],
    ),
    "train_step": (
        SMALL_GPT,
        ["GPT of 0.0 M parameters, 2 ranks, 2x8 tokens each: step minus bare forward+backward"],
    ),
    "all_reduce_deepspeed": (
        "--bytes 1000",
        [
            "all_reduce of 1000 B fp32, 2 ranks, ordinary tensor",
            "all_reduce of 1000 B fp32, 2 ranks, tensor of communicator.empty",
        ],
    ),
    "all_reduce_bandwidth": (
        "--mebibytes 1 --dtype bf16",
        ["all_reduce of 1 MiB bf16, 2 ranks, tensor of communicator.empty"],
    ),
    "all_reduce_bf16": (
        "--mebibytes 1",
        [
            "all_reduce of 512 KiB bf16, 2 ranks, ordinary tensor",
            "all_reduce of 512 KiB bf16, 2 ranks, tensor of communicator.empty",
        ],
    ),
    "send_recv": (
        "--bytes 1000",
        [
            "send_recv of 1000 B fp32, 2 ranks, ordinary tensor, there and back",
            "send_recv of 1000 B fp32, 2 ranks, tensor of communicator.empty, there and back",
        ],
    ),
    "dist_all_reduce": (
        "--bytes 1000",
        ["all_reduce of 1000 B fp32, 2 ranks, through torch.distributed"],
    ),
    "ddp_step": (
        SMALL_GPT,
        ["GPT of 0.0 M parameters, 2 ranks, 2x8 tokens each: DDP step minus no_sync step"],
    ),
}
THREE_RANKS = ["all_reduce"]
WITH_TARGET = ["all_reduce_small"]  # the only one that runs here at the size of its claim
WITH_COPY = [*(name for name in NAMES if name.startswith(("ada", "sgd"))), "all_reduce"]
OF_DIFFERENCES = ["train_step", "ddp_step", "prefetch"]  # of almost equal times


COPY_BYTES = 1 << 20  # of the copies that are timed beside


@pytest.fixture(autouse=True)
def small_copies(monkeypatch, threads):
    monkeypatch.setattr(optimizer_step, "COPY_BYTES", COPY_BYTES)


def test_every_benchmark_is_run_here():
    assert {*RUNS, *IN_RANKS} == set(NAMES)


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_ends_with_its_rows_in_a_file(name, tmp_path, capfd):
    arguments, labels = RUNS[name]
    module = importlib.import_module(f"benchmarks.{name}")
    code = module.main([*arguments.split(), "--rounds", "2", "--json", str(tmp_path)])
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert "measuring" in printed.err
    assert name in printed.out
    result = Result.load(tmp_path / f"{name}.json")
    assert result.benchmark == name
    assert result.arguments["rounds"] == 2
    assert result.arguments["threads"] >= 1
    assert [row.label for row in result.rows] == labels
    for row in result.rows:
        check(name, row)
    assert labels[0] in report.markdown([result])


def check(name, row):
    assert (row.target is not None) == (name in WITH_TARGET)
    assert (row.fraction_of_copy is not None) == (name in WITH_COPY)
    if name in OF_DIFFERENCES:
        return
    assert row.ours.p10 > 0
    if row.peer is None:
        assert row.peer_name == "DeepSpeed not installed"
    else:
        assert row.peer.p10 > 0
        assert row.ratio.p10 > 0


def run_rank(name, arguments):
    module = importlib.import_module(f"benchmarks.{name}")
    if hasattr(module, "COPY_BYTES"):
        module.COPY_BYTES = COPY_BYTES
    return module.main(arguments)


@pytest.mark.parametrize("name", IN_RANKS)
def test_the_ranks_of_a_benchmark_end_with_its_rows(name, tmp_path):
    arguments, labels = IN_RANKS[name]
    path = tmp_path / "rows"
    options = [*arguments.split(), "--rounds", "2", "--rows", str(path)]
    world_size = 3 if name in THREE_RANKS else 2
    assert ranks.run_ranks(world_size, run_rank, name, options) == [0] * world_size
    rows = rows_from_json(path.read_text())
    assert [row.label for row in rows] == labels
    for row in rows:
        check(name, row)
        assert row.label in report.markdown([Result.of(name, [row], {})])


def test_a_wrong_result_is_a_sentence_and_leaves_no_file(tmp_path, capsys, monkeypatch):
    def step_further(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param.data += 0.5

    monkeypatch.setattr("pyparallel.optim.AdamW.step", step_further)
    module = importlib.import_module("benchmarks.adamw")
    arguments = ["--tensors", "1x[100]", "--rounds", "1", "--json", str(tmp_path)]
    assert module.main(arguments) == 1
    assert "benchmarks.adamw: AdamW of ours" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("name", ["adamw", "all_reduce"])
def test_a_missing_gpu_is_a_sentence(name, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.main(["--device", "cuda"]) == 1
    assert "no GPU" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "4096", "2x[]", "x[3]", "2x[3]+", "2x[3,,4]", "0x[3]"])
def test_shapes_that_cannot_be_read_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not like"):
        command.tensor_list(text)


def test_shapes_are_read_as_the_table_writes_them():
    made = command.tensor_list("2x[3, 4] + 1x[5]")
    assert made.shapes == [(3, 4), (3, 4), (5,)]


def test_only_what_is_measured_decides_whether_the_target_applies():
    parser = command.parser("adamw", None, rounds=3)
    optimizer_step.add_arguments(parser, tensors="4x[8]", dtype="fp32")
    for line, default in (
        ("--rounds 9 --threads 1 --json x --seed 3", True),
        ("--tensors 4x[8] --dtype fp32", True),
        ("--tensors 4x[9]", False),
        ("--dtype bf16", False),
        ("--device cuda", False),
    ):
        assert command.is_default(parser.parse_args(line.split()), parser) == default, line


def test_overheads_are_what_steps_take_longer_than_bare_ones():
    train_step = importlib.import_module("benchmarks.train_step")
    seconds = {"ours": [1.2, 1.3, 9.0], "peer": [1.5, 1.7, 9.9], "bare": [1.0, 1.1, 1.2]}
    row = train_step.overhead_row("a", "b", Measurement(seconds), target=train_step.TARGET)
    assert row.ours.median == pytest.approx(0.2)
    assert row.peer.median == pytest.approx(0.6)
    assert row.ratio.median == pytest.approx(1 / 3)
    assert row.target.is_met(row.ratio.median)
    assert row.details == {
        "ours step": "1300.0 ms",
        "peer step": "1700.0 ms",
        "bare step": "1100.0 ms",
    }


def test_a_message_and_its_answer_take_two_ranks(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.send_recv").main(["--ranks", "3"])
    assert "take --ranks 2" in capsys.readouterr().err


def test_the_loop_moves_what_it_says_and_leaves_equal_arrays():
    bandwidth = importlib.import_module("benchmarks.all_reduce_bandwidth")
    for num_bytes in (1, 5 * bandwidth.BLOCK_BYTES, 8 * bandwidth.BLOCK_BYTES):
        run, moved = bandwidth.add_loop(num_bytes, device="cpu")
        blocks = max(1, num_bytes // (2 * bandwidth.BLOCK_BYTES))
        assert moved == 4 * blocks * bandwidth.BLOCK_BYTES
        run()


def test_all_are_run_in_order_and_a_failed_one_is_named(tmp_path, monkeypatch, capsys):
    called = []

    def run(name, arguments):
        called.append((name, arguments))
        return name != "adamw_small"

    monkeypatch.setattr(__main__, "run", run)
    (tmp_path / "README.md").write_text(f"{report.BEGIN}\n{report.END}\n")
    paths = ["--json", str(tmp_path), "--readme", str(tmp_path / "README.md")]
    assert __main__.main([*paths, "--rounds", "2"]) == 1
    assert [name for name, _ in called] == list(NAMES)
    expected = ["--json", str(tmp_path), "--device", "cpu", "--rounds", "2"]
    assert all(arguments == expected for _, arguments in called)
    assert "failed: adamw_small" in capsys.readouterr().err
    assert "No results yet" in (tmp_path / "README.md").read_text()
    called.clear()
    assert __main__.main([*paths, "train_step", "adamw"]) == 0
    assert [name for name, _ in called] == ["train_step", "adamw"]


def test_a_benchmark_is_a_module_of_its_own_process(tmp_path):
    assert __main__.run("memory_pool", ["--pairs", "9", "--rounds", "1", "--json", str(tmp_path)])
    assert (tmp_path / "memory_pool.json").exists()


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["adam"])
    assert "no benchmark 'adam'" in capsys.readouterr().err
