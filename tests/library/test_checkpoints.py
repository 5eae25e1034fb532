"""Damage to a checkpoint is noticed, wherever it is, and the one before is offered."""

import json
import os
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_lib.args import InputError
from rlhf_lib.files import CannotWrite
from rlhf_lib.runs.checkpoints import NAME, PREVIOUS, about_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint


def state(phase):
    return {
        "next_phase": phase,
        "step": 4 * phase,
        "model": {"weight": torch.arange(20.0) + phase},
        "optimizer": {"state": {}, "param_groups": [{"params": [0], "lr": 0.1}]},
        "scheduler": {"last_epoch": phase},
        "rng": torch.get_rng_state(),
        "before": "{}",
        "seconds": 1.5,
    }


@pytest.fixture
def saved(tmp_path):
    """A directory with the checkpoints after phases 6 and 7."""
    for phase in (5, 6, 7):
        save_checkpoint(tmp_path / NAME, state(phase), prepared={"updates": phase})
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint's bytes, and a place to damage them in."""
    root = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(root / NAME, state(7), prepared={})
    return (root / NAME).read_bytes(), root / NAME


def test_the_last_two_are_kept(saved):
    assert sorted(path.name for path in saved.iterdir()) == [PREVIOUS, NAME]
    assert load_checkpoint(saved / NAME)["next_phase"] == 7
    assert load_checkpoint(saved / PREVIOUS)["next_phase"] == 6
    assert torch.equal(load_checkpoint(saved / NAME)["model"]["weight"], torch.arange(20.0) + 7)
    assert about_checkpoint(saved) == {"format": 2, "next_phase": 7, "prepared": {"updates": 7}}
    assert torch.load(saved / NAME, weights_only=True)["next_phase"] == 7  # torch reads it as it is


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_anywhere_is_noticed(whole, data):
    content, file = whole
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(len(content) - 200, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    with pytest.raises(InputError, match=str(file)):
        read_checkpoint(file)


def test_every_byte_of_the_last_line_counts(whole):
    content, file = whole
    start = content[:-1].rfind(b"\n")
    for place in range(start, len(content)):
        for new in (b" ", b"\n", b"0", bytes([content[place] ^ 1])):
            if new != content[place : place + 1]:
                file.write_bytes(content[:place] + new + content[place + 1 :])
                with pytest.raises(InputError, match=str(file)):
                    read_checkpoint(file)


def test_a_cut_anywhere_is_noticed(whole):
    content, file = whole
    for length in [*random.Random(0).sample(range(len(content)), 200), *range(len(content) - 200, len(content))]:
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=str(file)):
            read_checkpoint(file)
    file.write_bytes(content + b"\n")
    with pytest.raises(InputError, match=str(file)):
        read_checkpoint(file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("empty", "is empty"),
        ("cut", "truncated"),
        ("altered", "was altered"),
        ("missing", "does not exist"),
        ("foreign", "is not"),
    ],
)
def test_the_one_before_is_offered(damage, said, saved):
    file = saved / NAME
    content = file.read_bytes()
    changes = {
        "empty": lambda: file.write_bytes(b""),
        "cut": lambda: file.write_bytes(content[:900]),
        "altered": lambda: file.write_bytes(content[:800] + bytes([content[800] ^ 8]) + content[801:]),
        "missing": file.unlink,
        "foreign": lambda: torch.save({"weights": 1}, file),
    }
    before = (saved / PREVIOUS).read_bytes()
    changes[damage]()
    with pytest.raises(InputError, match=rf"{said}.*; the checkpoint before it, after phase 6, is whole: .*`mv ") as caught:
        load_checkpoint(file)
    assert (saved / PREVIOUS).read_bytes() == before
    command = str(caught.value).split("`")[1]
    assert os.system(command) == 0
    assert load_checkpoint(file)["next_phase"] == 6


def test_both_damaged(saved):
    for name in (NAME, PREVIOUS):
        (saved / name).write_bytes(b"")
    with pytest.raises(InputError, match="is empty, and there is no whole one before it; restore it from a copy"):
        load_checkpoint(saved / NAME)


def test_one_of_before_checksums_loads_and_that_is_said(tmp_path, capsys):
    torch.save(state(3), tmp_path / NAME)
    assert load_checkpoint(tmp_path / NAME)["next_phase"] == 3
    assert "without checksums" in capsys.readouterr().err


@pytest.mark.parametrize("when", ["write", "link", "first rename", "second rename"])
def test_a_kill_between_two_steps_leaves_both(when, saved, monkeypatch):
    """Whatever is not done any more, checkpoint.pt is whole, and so is the one before; and the next one can be saved."""

    class Killed(BaseException):
        pass

    def killed(*words, **options):
        raise Killed

    replace, calls = os.replace, []

    def kills_at(number):
        def call(a, b):
            calls.append(b)
            return killed() if len(calls) == number else replace(a, b)

        return call

    with monkeypatch.context() as patch:
        if when == "write":
            patch.setattr(torch, "save", killed)
        elif when == "link":
            patch.setattr(os, "link", killed)
        else:
            patch.setattr(os, "replace", kills_at(1 if when == "first rename" else 2))
        with pytest.raises(Killed):
            save_checkpoint(saved / NAME, state(8))
    assert load_checkpoint(saved / NAME)["next_phase"] == 7
    assert load_checkpoint(saved / PREVIOUS)["next_phase"] in (6, 7)
    for phase in (8, 9):
        save_checkpoint(saved / NAME, state(phase))
    assert [load_checkpoint(saved / name)["next_phase"] for name in (NAME, PREVIOUS)] == [9, 8]
    assert sorted(path.name for path in saved.iterdir()) == [PREVIOUS, NAME]


def test_without_second_names(saved, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *words: (_ for _ in ()).throw(OSError("no links here")))
    save_checkpoint(saved / NAME, state(8))
    assert [load_checkpoint(saved / name)["next_phase"] for name in (NAME, PREVIOUS)] == [8, 7]


def test_a_full_disk_leaves_both(saved, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CannotWrite, match=r"checkpoint.pt could not be written \(No space left on device\)"):
        save_checkpoint(saved / NAME, state(8))
    assert [load_checkpoint(saved / name)["next_phase"] for name in (NAME, PREVIOUS)] == [7, 6]


WRONG = {
    "next_phase": ["x", None, -1, 1.5, True],
    "step": ["x", None],
    "model": [None, 5, {}, {"weight": 3}, [torch.ones(2)]],
    "optimizer": [None, {}, {"state": {}}, {"state": {}, "param_groups": [3]}, {"state": {}, "param_groups": [{}]}],
    "scheduler": [None, {}, {"last_epoch": "x"}, 3],
    "rng": [None, "x", torch.ones(4), torch.zeros(3, dtype=torch.uint8)],
    "before": [None, 5, "no JSON", "[1]", "[" * 100_000],
    "seconds": ["x", None, True],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=repr)
def test_what_a_run_does_not_write_is_no_checkpoint(name, value, tmp_path, capsys):
    """Whole by its bytes, since it has no checksum, and wrong in one of its parts."""
    torch.save({**state(7), name: value}, tmp_path / NAME)
    with pytest.raises(InputError, match=f"it has no {name} such as a run writes") as error:
        load_checkpoint(tmp_path / NAME)
    assert "\n" not in str(error.value)


def test_without_a_part(tmp_path):
    for name in WRONG:
        torch.save({part: value for part, value in state(7).items() if part != name}, tmp_path / NAME)
        with pytest.raises(InputError, match=str(tmp_path / NAME)):
            load_checkpoint(tmp_path / NAME)


@pytest.mark.parametrize(
    "about", [{"next_phase": "x"}, {"next_phase": -1}, {"prepared": 3}, {"prepared": {"a": "x"}}, {}], ids=str
)
def test_a_closing_line_of_something_else_says_nothing(about, tmp_path):
    (tmp_path / NAME).write_bytes(b"...\n" + json.dumps({**about, "sha256": "0"}).encode() + b"\n")
    assert about_checkpoint(tmp_path) == {}
