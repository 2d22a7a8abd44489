"""The training script as a user starts it: a few steps of a tiny model on two processes."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pyparallel

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_gpt.py"
TINY = """
    --layers 2 --heads 2 --width 32 --context 16 --batch 4 --steps 6 --warm-up 2
    --validate-every 3 --validation-sequences 9 --report-every 2 --sample-tokens 20
"""


def train(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Runs the script with the tiny settings and these arguments on top."""
    source = str(Path(pyparallel.__file__).parents[1])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    launcher = ["-m", "pyparallel", "run", "-n", str(processes)] if processes > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), *TINY.split(), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def log_of(folder: Path) -> dict:
    return json.loads((folder / "log.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """An uninterrupted run on two ranks: what it printed, and the folder it left."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    finished = train("--out", folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished, folder


def test_a_run_leaves_log_curve_and_checkpoint(whole_run):
    _, folder = whole_run
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt",
        "log.json",
        "loss.png",
    ], "a temporary file stayed behind, or a result is missing"
    header = (folder / "loss.png").read_bytes()[:24]
    width, height = struct.unpack(">II", header[16:24])
    assert header.startswith(b"\x89PNG")
    assert (width, height) == (1350, 750)
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 6
    assert saved["best_loss"] == min(one["loss"] for one in log_of(folder)["validations"])
    assert not any(key.startswith("module.") for key in saved["model"])


def test_the_log_tells_every_step_and_where_its_time_went(whole_run):
    log = log_of(whole_run[1])
    assert len(log["losses"]) == len(log["step_ms"]) == 6
    # An untrained model knows nothing: about ln(76) nats for the 76 characters of the text.
    assert abs(log["losses"][0] - math.log(76)) < 0.3
    assert [one["step"] for one in log["validations"]] == [3, 6]
    assert set(log["part_ms"]) == {"forward+backward", "pack", "reduce", "optimizer", "waiting"}
    for step, whole in enumerate(log["step_ms"]):
        parts = sum(part[step] for part in log["part_ms"].values())
        assert parts == pytest.approx(whole, rel=0.01), f"step {step}: parts {parts}, whole {whole}"
    assert log["machine"]["world_size"] == 2
    assert log["versions"]["torch"] == torch.__version__


def test_a_run_prints_loss_speed_parts_and_sample_once(whole_run):
    printed = whole_run[0].stdout
    for words in ("tokens/s", "forward+backward", "waiting", "step 6/6", "a sample of 20"):
        assert printed.count(words) >= 1, f"{words!r} is missing in:\n{printed}"
    assert printed.count("input: ") == 1, "whether the loop is input bound"
    assert printed.count("validation loss") == 3, "two validations and the result, from one rank"
    assert log_of(whole_run[1])["sample"] in printed


def test_a_resumed_run_repeats_the_uninterrupted_one(whole_run, tmp_path):
    """However far either reads ahead."""
    first = train("--out", tmp_path, "--stop-at", 3, "--read-ahead", 0)
    assert log_of(tmp_path)["losses"] == log_of(whole_run[1])["losses"][:3], first.stderr
    second = train("--out", tmp_path, "--resume", "--read-ahead", 3)
    assert second.returncode == 0, second.stderr
    resumed, whole = log_of(tmp_path), log_of(whole_run[1])
    assert resumed["losses"] == whole["losses"]
    assert resumed["validations"] == whole["validations"]
    ours, theirs = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["model"]
        for folder in (tmp_path, whole_run[1])
    )
    for name in theirs:
        assert torch.equal(ours[name], theirs[name]), name


def test_one_process_of_torch_leaves_a_checkpoint_that_ours_resumes(tmp_path):
    stopped = train("--out", tmp_path, "--baseline", "--stop-at", 3, processes=1)
    assert stopped.returncode == 0, stopped.stderr
    assert set(log_of(tmp_path)["part_ms"]) == {"forward+backward+reduce", "optimizer"}
    resumed = train("--out", tmp_path, "--resume", processes=1)
    assert resumed.returncode == 0, resumed.stderr
    losses = log_of(tmp_path)["losses"]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


def test_compare_finds_both_libraries_in_agreement(tmp_path):
    finished = train("--compare", "--compare-steps", 12, "--out", tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert len(result["losses"]["pyparallel"]) == len(result["losses"]["torch"]) == 12
    assert result["loss_difference"] <= 1e-5
    assert result["losses"]["torch"][-1] < result["losses"]["torch"][0], "nothing was trained"
    step = result["median_ms"]["step"]
    assert min(step.values()) > result["median_ms"]["optimizer"]["torch"] > 0
    assert "ratio" in finished.stdout


def test_a_bad_text_ends_all_ranks_with_one_sentence(tmp_path):
    text, out = tmp_path / "latin.txt", tmp_path / "out"
    text.write_bytes(b"caf\xe9 " * 1000)
    finished = train("--text", text, "--out", out)
    assert finished.returncode == 2
    assert finished.stderr.count("latin.txt is not UTF-8: byte 0xe9 at offset 3 of 5000") == 1
    assert "Traceback" not in finished.stderr
    assert not out.exists(), "something was written"
