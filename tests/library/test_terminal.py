"""What is printed moves no cursor, and is otherwise what it was."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_lib import cli
from rlhf_lib.terminal import visible

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_nothing_that_a_terminal_obeys_is_left(text):
    shown = visible(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t" for c in shown)
    assert not set(shown) & set(BIDI)
    shown.encode()  # a terminal's encoding takes it


@given(st.text(st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp")) | st.sampled_from("\n\t"), max_size=60))
def test_the_rest_stays(text):
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("right\rwrong", r"right\x0dwrong"),
        ("\x9b2J", r"\x9b2J"),
        ("a\u202eb", r"a\u202eb"),
        ("file\udcff", r"file\udcff"),
        ("a\x7f\x00", r"a\x7f\x00"),
        ("Zeile\n\tzwei ⏎ 你好 👩‍👩‍👧", "Zeile\n\tzwei ⏎ 你好 👩‍👩‍👧"),
    ],
)
def test_by_example(text, shown):
    assert visible(text) == shown


def test_an_error_shows_what_was_given(capsys):
    assert cli.main(["sample", "--run", "/no/\x1b[2Jsuch"]) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_a_completion_is_shown(capsys, monkeypatch):
    """Whatever a model writes, and whatever is asked."""
    from rlhf_lib import rollouts

    class Found:
        completions = ["\x1b[2Jgone\n"] * 2

    monkeypatch.setattr(rollouts, "rollout", lambda *words, **options: Found())
    assert cli.main(["sample", "--prompt", "\x1b]0;x\x07", "--count", "2", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.count(r"\x1b[2Jgone") == 2
    assert r"\x1b]0;x\x07" in out
