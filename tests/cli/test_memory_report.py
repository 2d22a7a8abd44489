"""`python -m pyparallel memory report`: a snapshot's holders, ours and torch's, or one sentence."""

import pickle
import xml.etree.ElementTree as ElementTree

import pytest

from pyparallel.cli import main
from pyparallel.memory import MemoryPool, dump_snapshot


def hold(pool):
    return [pool.allocate(3 << 20), pool.allocate(1000)]


@pytest.fixture
def file(tmp_path):
    pool = MemoryPool()
    with pool.record(max_events=4):
        blocks = hold(pool)
        pool.free(blocks[0])
        for _ in range(4):
            pool.free(pool.allocate(5))
        dump_snapshot(pool, tmp_path / "ours.pickle")
    return tmp_path / "ours.pickle"


def test_it_prints_sites_totals_and_holes(file, capsys):
    assert main(["memory", "report", str(file), "--top", "3", "--frames", "1"]) == 0
    printed = capsys.readouterr().out
    assert ":hold" in printed
    assert "1000 B" in printed
    assert "more were lost" in printed
    assert "fragmentation" in printed


def test_it_draws_the_timeline(file, tmp_path, capsys):
    picture = tmp_path / "picture.html"
    assert main(["memory", "report", str(file), "--timeline", str(picture)]) == 0
    ElementTree.fromstring(picture.read_text())
    assert "picture.html" in capsys.readouterr().out.replace("\n", "")


def test_a_snapshot_of_torch_is_read(tmp_path, capsys):
    frames = [{"filename": "[bold]/m.py", "line": 7, "name": "forward"}]
    block = {"size": 512, "requested_size": 400, "state": "active_allocated", "frames": frames}
    free = {"size": 1536, "state": "inactive"}
    segment = {"device": 1, "address": 0, "total_size": 2048, "stream": 0, "blocks": [block, free]}
    (tmp_path / "torch.pickle").write_bytes(pickle.dumps({"segments": [segment] * 2}))
    assert main(["memory", "report", str(tmp_path / "torch.pickle"), "--device", "1"]) == 0
    printed = capsys.readouterr().out
    assert "m.py:7:forward" in printed
    assert "800 B" in printed


@pytest.mark.parametrize("content", [None, b"x", pickle.dumps([{"blocks": []}])])
def test_no_snapshot_is_one_sentence_and_exit_code_2(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / "no").write_bytes(content)
    with pytest.raises(SystemExit) as raised:
        main(["memory", "report", str(tmp_path / "no")])
    assert raised.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert "no" in printed
