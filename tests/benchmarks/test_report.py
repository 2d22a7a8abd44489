"""Results survive their JSON, and README cannot say anything else than they do."""

import dataclasses
import json
import subprocess

import pytest

from benchmarks import environment, report
from benchmarks.results import Result, Row, Target, load_all, rows_from_json, rows_to_json
from pyparallel.cli.timer import Spread

ROW = Row(
    label="AdamW fp32, 4x[4096,4096]",
    peer_name="torch fused",
    ours=Spread(0.05, 0.049, 0.052),
    peer=Spread(0.08, 0.079, 0.09),
    ratio=Spread(1.6, 1.5, 1.7),
    target=Target("at least", 1.45),
    num_bytes=2_000_000_000,
    copy_bytes_per_second=50e9,
    details={"bytes per parameter": 28},
)
BARE_ROW = Row(
    "all_reduce", "Gloo", Spread(2e-6, 1e-6, 3e-6), Spread(1, 1, 1), Spread(5e5, 5e5, 5e5)
)
README = f"# Title\n\nBefore.\n\n{report.BEGIN}\n{report.END}\n\nAfter.\n"


@pytest.fixture
def folder(tmp_path):
    """Results and a README that shows them."""
    Result.of("all_reduce", [BARE_ROW], {"device": "cpu"}).save(tmp_path / "results")
    Result.of("adamw", [ROW], {"device": "cpu", "rounds": 3}).save(tmp_path / "results")
    (tmp_path / "README.md").write_text(README)
    assert run_report(tmp_path) == 0
    return tmp_path


def run_report(folder, *more):
    paths = ("--json", str(folder / "results"), "--readme", str(folder / "README.md"))
    return report.main([*paths, *more])


def test_a_result_survives_its_file(tmp_path):
    result = Result.of("adamw", [ROW, BARE_ROW], {"device": "cpu", "rounds": 3})
    path = result.save(tmp_path / "new")
    assert path == tmp_path / "new" / "adamw.json"
    assert Result.load(path) == result
    assert rows_from_json(rows_to_json(result.rows)) == result.rows
    assert result.machine["cores"] >= 1
    assert result.versions["torch"]
    assert set(result.commit) == {"hash", "dirty"}


def test_results_on_a_gpu_have_a_file_of_their_own_and_come_last(tmp_path):
    for device in ("cuda", "cpu"):
        for name in ("train_step", "adamw"):
            Result.of(name, [ROW], {"device": device}).save(tmp_path)
    names = [result.file_name for result in load_all(tmp_path)]
    assert names == ["adamw.json", "train_step.json", "adamw-cuda.json", "train_step-cuda.json"]


def test_the_table_stands_between_the_comments_and_leaves_the_rest_alone(folder):
    text = (folder / "README.md").read_text()
    before, _, rest = text.partition(report.BEGIN)
    table, _, after = rest.partition(report.END)
    assert before + after == README.replace(f"{report.BEGIN}\n{report.END}", "")
    first, second = (line for line in table.splitlines() if line.startswith(("| Adam", "| all")))
    assert first == (
        "| AdamW fp32, 4x[4096,4096] | 50.0 ms (49.0 to 52.0) | 80.0 ms (79.0 to 90.0) torch fused "
        "| 1.60x | at least 1.45x | 40.0 | 80 % |"
    )
    assert second == (
        "| all_reduce | 2.00 us (1.00 to 3.00) | 1.00 s (1.00 to 1.00) Gloo | 500000x | - | - | - |"
    )
    assert "bytes per parameter: 28" in table
    assert run_report(folder) == 0
    assert (folder / "README.md").read_text() == text


def test_the_check_goes_red_on_a_number_changed_on_either_side(folder, capsys):
    assert run_report(folder, "--check") == 0
    path = folder / "results" / "adamw.json"
    truth = path.read_text()
    value = json.loads(truth)
    value["rows"][0]["ours"]["median"] *= 1.1
    path.write_text(json.dumps(value))
    assert run_report(folder, "--check") == 1
    assert "is not what" in capsys.readouterr().err
    path.write_text(truth)
    assert run_report(folder, "--check") == 0
    readme = folder / "README.md"
    changed = readme.read_text().replace("1.60x", "1.70x")
    readme.write_text(changed)
    assert run_report(folder, "--check") == 1
    assert readme.read_text() == changed, "--check must not write"


def test_a_readme_that_cannot_be_used_is_named_in_a_sentence(tmp_path, capsys):
    assert run_report(tmp_path) == 1
    assert "README.md: No such file" in capsys.readouterr().err
    for text in ("", report.BEGIN, report.END + report.BEGIN, README + README):
        (tmp_path / "README.md").write_text(text)
        assert run_report(tmp_path) == 1
        assert "once each" in capsys.readouterr().err
        assert (tmp_path / "README.md").read_text() == text


def test_a_missed_target_is_said_in_either_direction():
    target = dataclasses.replace(ROW, target=Target("at least", 1.7))
    assert report.cells(target)[4] == "at least 1.7x (missed)"
    for most, said in ((1.7, "at most 1.7x"), (1.5, "at most 1.5x (missed)")):
        row = dataclasses.replace(ROW, target=Target("at most", most))
        assert report.cells(row)[4] == said


def test_a_limit_of_time_is_a_claim_beside_the_ratio():
    row = dataclasses.replace(ROW, target=Target("at least", 1.7), most_seconds=8e-6)
    assert report.cells(row)[4] == "at least 1.7x (missed), at most 8 us (missed)"
    row = dataclasses.replace(BARE_ROW, most_seconds=8e-6)
    assert report.cells(row)[4] == "at most 8 us"
    assert rows_from_json(rows_to_json([row])) == [row]


def test_a_peer_that_is_not_there_is_said_and_misses_nothing(tmp_path):
    row = Row("all_reduce", "DeepSpeed not installed", Spread(1, 1, 1), None, None, ROW.target)
    result = Result.of("all_reduce_deepspeed", [row], {"device": "cpu"})
    assert Result.load(result.save(tmp_path)) == result
    assert report.cells(row)[2:5] == ("DeepSpeed not installed", "-", "-")
    assert "DeepSpeed not installed" in report.markdown([result])


def test_results_of_before_there_were_limits_of_time_can_be_read(tmp_path):
    path = Result.of("adamw", [ROW], {"device": "cpu"}).save(tmp_path)
    value = json.loads(path.read_text())
    del value["rows"][0]["most_seconds"]
    path.write_text(json.dumps(value))
    assert Result.load(path).rows == [ROW]


def test_no_results_are_said_too():
    assert "No results" in report.markdown([])


def test_the_commit_is_dirty_when_sources_differ_but_not_for_what_benchmarks_write(tmp_path):
    assert environment.commit(tmp_path) == {"hash": None, "dirty": False}

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "source.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    clean = environment.commit(tmp_path)
    assert not clean["dirty"]
    assert len(clean["hash"]) == 40
    (tmp_path / "README.md").write_text("table")
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results" / "adamw.json").write_text("{}")
    assert environment.commit(tmp_path) == clean
    (tmp_path / "source.py").write_text("2")
    assert environment.commit(tmp_path) == {**clean, "dirty": True}


def test_the_cpu_is_named_as_the_system_names_it(tmp_path):
    information = tmp_path / "cpuinfo"
    information.write_text("processor\t: 0\nmodel name\t: Fast CPU 3\nmodel name\t: other\n")
    assert environment.cpu_model(information) == "Fast CPU 3"
    assert environment.cpu_model(tmp_path / "missing")
