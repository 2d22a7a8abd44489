"""The text: what is refused, how it is split, and that batches depend on nothing but their name."""

import pytest
import torch

from gpt.text import InputError, Text, read_text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"\xff\xfe a\x00", r"not UTF-8: byte 0xff at offset 0 of 5"),
        ("é".encode() * 3 + b"\xc3", r"not UTF-8: byte 0xc3 at offset 6 of 7"),
        (b"too short", r"9 characters, of which 0 are held out .* needs 17 .* at least 170"),
        (b"x" * 169, r"169 characters, of which 16 are held out"),
    ],
)
def test_an_unusable_text_is_refused_with_its_numbers(tmp_path, content, sentence):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_text(path, context=16)


def test_a_missing_text_and_a_folder_are_refused_by_name(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=f"cannot read the text {path}: "):
            read_text(path, context=16)


def test_the_smallest_text_that_the_message_asks_for_is_accepted(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"x" * 170)
    text = read_text(path, context=16)
    assert len(list(text.validation_batches(most_sequences=9, rank=0, world_size=1))) == 1


def test_encoding_gives_the_text_back_in_any_script():
    characters = "Ünïcödé ταξίδι 旅 🚂\r\n" * 40
    text = Text(characters, context=8, origin="it")
    whole = torch.cat((text.training, text.validation)).tolist()
    assert text.decode(whole) == characters
    assert text.encode(characters) == whole
    assert text.vocabulary == "".join(sorted(set(characters)))


def test_validation_covers_every_held_out_sequence_once_on_any_world_size():
    text = Text("".join(chr(0x4E00 + index) for index in range(2000)), context=7, origin="it")
    held_out = set(range(1800, 2000))
    for world_size in (1, 2, 3, 40):
        targets = [
            int(target)
            for rank in range(world_size)
            for _, batch in text.validation_batches(
                most_sequences=10**9, rank=rank, world_size=world_size
            )
            for target in batch.flatten()
        ]
        assert len(targets) == len(set(targets)) == 28 * 7, f"world size {world_size}"
        assert set(targets) <= held_out, f"world size {world_size}"


def test_a_batch_is_a_function_of_seed_rank_and_step_and_never_sees_held_out_text():
    text = Text("".join(chr(0x4E00 + index) for index in range(2000)), context=7, origin="it")

    def batch(**changes):
        return text.training_batch(**({"size": 64, "step": 3, "rank": 1, "seed": 5} | changes))

    tokens, targets = batch()
    assert torch.equal(tokens, batch()[0])
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    assert int(targets.max()) < 1800
    for change in ({"seed": 6}, {"rank": 0}, {"step": 4}):
        assert not torch.equal(tokens, batch(**change)[0]), change
    several = text.training_batches(range(2, 5), size=64, rank=1, seed=5)
    for step, one in enumerate(several, 2):
        assert torch.equal(one[0], batch(step=step)[0]), f"step {step}"
