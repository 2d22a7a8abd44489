"""What surrounds a step: the accounting of its time, the rate, the checkpoint, the comparison."""

import dataclasses
import types

import pytest
import torch

from gpt import checkpoint, compare, training
from gpt.history import History, Measurement
from gpt.progress import Display
from gpt.report import smoothed
from gpt.settings import parse_settings


@pytest.fixture
def tiny(tmp_path):
    """A training of one linear layer, without any parallel library."""
    context = types.SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"), spans=None)
    layer = torch.nn.Linear(3, 3)
    model = types.SimpleNamespace(module=layer)
    optimizer = torch.optim.AdamW(layer.parameters())
    settings = parse_settings(["--out", str(tmp_path)])
    return training.Training(context, model, optimizer, settings)


def one_step() -> History:
    history = History()
    history.extend([Measurement(2.0, 0.1, {"optimizer": 0.1})])
    return history


def test_spans_are_taken_out_of_the_half_of_the_step_in_which_they_ran():
    before = {"pack": 1.0, "reduce": 5.0, "wait": 0.0, "optimizer": 3.0}
    within = {"pack": 1.5, "reduce": 7.0, "wait": 0.0, "optimizer": 3.0}
    after = {"pack": 1.5, "reduce": 7.0, "wait": 0.25, "optimizer": 4.0}
    assert training._parts(10.0, 2.0, before, within, after) == {
        "forward+backward": 7.5,
        "pack": 0.5,
        "reduce": 2.0,
        "optimizer": 1.75,
        "waiting": 0.25,
    }


def test_the_rate_warms_up_to_its_largest_and_ends_near_zero():
    settings = parse_settings(["--steps", "100", "--warm-up", "10", "--learning-rate", "0.5"])
    rates = [training.learning_rate(settings, step) for step in range(100)]
    assert max(rates) == pytest.approx(0.5, rel=0.03)
    assert rates.index(max(rates)) == 9
    assert rates[0] < 0.06
    assert 0 < rates[-1] < 0.02
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_failing_save_leaves_the_old_checkpoint_whole_and_nothing_else(tiny, monkeypatch):
    folder = tiny.settings.out
    checkpoint.save(tiny, one_step(), vocabulary="ab")
    old = (folder / checkpoint.NAME).read_bytes()

    def disk_full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tiny, one_step(), vocabulary="ab")
    assert [path.name for path in folder.iterdir()] == [checkpoint.NAME]
    assert (folder / checkpoint.NAME).read_bytes() == old


def test_resuming_from_what_does_not_fit_is_refused_by_name(tiny):
    path = tiny.settings.out / checkpoint.NAME
    with pytest.raises(checkpoint.InputError, match=r"cannot resume from .*No such file"):
        checkpoint.resume(tiny, vocabulary="ab")
    checkpoint.save(tiny, one_step(), vocabulary="ab")
    assert checkpoint.resume(tiny, vocabulary="ab") == one_step()
    with pytest.raises(checkpoint.InputError, match="2 distinct characters and this one 3"):
        checkpoint.resume(tiny, vocabulary="abc")
    other_seed = dataclasses.replace(tiny.settings, seed=7)
    other = training.Training(tiny.context, tiny.model, tiny.optimizer, other_seed)
    with pytest.raises(checkpoint.InputError, match="with seed 1, but this run has seed 7"):
        checkpoint.resume(other, vocabulary="ab")
    tiny.context.world_size = 4
    with pytest.raises(checkpoint.InputError, match="world_size 1, but this run has world_size 4"):
        checkpoint.resume(tiny, vocabulary="ab")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoint.InputError, match="not a whole checkpoint"):
        checkpoint.resume(tiny, vocabulary="ab")


@pytest.mark.parametrize(("difference", "agree"), [(0.9e-5, True), (1.1e-5, False)])
def test_compare_fails_when_the_curves_differ_by_more_than_rounding(
    tiny, monkeypatch, capsys, difference, agree
):
    def history(loss, parts):
        one = History()
        one.extend([Measurement(loss, 0.1, parts)] * 3)
        return one

    ours = dict.fromkeys(("forward+backward", "pack", "reduce", "waiting", "optimizer"), 0.02)
    theirs = {training.FORWARD_BACKWARD_REDUCE: 0.08, "optimizer": 0.02}
    comparison = compare.Comparison(
        ours=history(1.0 + difference, ours), theirs=history(1.0, theirs), bare=history(1.0, {})
    )
    monkeypatch.setattr(compare, "_measure", lambda *_, **__: comparison)
    assert compare.compare(None, ours=tiny, theirs=None, bare=None) is agree
    assert ("loss curves differ by 1.1e-05" in capsys.readouterr().err) is not agree


def test_progress_tells_speed_and_remaining_time_and_only_where_visible(capsys):
    recent = Measurement(2.5, 0.1, {"forward+backward": 0.07, "optimizer": 0.03})
    for visible in (True, False):
        with Display(first_step=0, last_step=100, tokens_per_step=512, visible=visible) as display:
            for done in (25, 50, 75, 100):
                display.show(done, recent)
        printed = capsys.readouterr().out
        assert printed.count("on this machine") == int(visible)
        assert printed.count("step 100/100  loss 2.500  5,120 tokens/s") == int(visible)
        assert printed.count("forward+backward 70.0  optimizer 30.0") >= int(visible)
    assert printed == ""


def test_smoothing_keeps_a_straight_line_and_evens_out_noise_to_the_end():
    line = [3.0 - 0.01 * step for step in range(100)]
    assert smoothed(line)[:80] == pytest.approx(line[:80])
    noise = smoothed([2.0 + 0.1 * (-1) ** step for step in range(100)])
    assert max(abs(loss - 2.0) for loss in noise[20:]) < 0.01


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--steps 0", "must be at least 1, but is 0"),
        ("--read-ahead -1", "must not be negative, but is -1"),
        ("--learning-rate nan", "must be positive and finite, but is nan"),
        ("--width 32 --heads 5", "width is 32 and heads 5"),
        ("--baseline --compare", "not allowed with"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments.split())
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err
