"""A student's day: quick answers, prints, the debugger, keys, endless loops, a terminal without the environment."""

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rlhf_lib.course import checks, warm
from rlhf_lib.course.assemble import Implementation
from rlhf_lib.course.manifest import find_exercise

from .course_answers import DIVIDED, RIGHT, ROOT, fill, stubs

CHECK = [sys.executable, "-m", "rlhf_lib", "course", "check", "spread_over_tokens", "--input-seed", "3"]


def environment(checkout, **more):
    return {**os.environ, "PYTHONPATH": str(checkout), **more}


# One limit of the processor's time


def outcomes_of(code, monkeypatch, name="spread_over_tokens", seconds=1.0):
    exercise = find_exercise(ROOT, name)
    checks.run_exercise(ROOT, exercise, stubs(exercise.topic), seed=0)  # so that no import is counted
    monkeypatch.setattr(checks, "TIME_LIMIT", seconds)
    return checks.check_exercise(ROOT, exercise, Implementation(f"{stubs(exercise.topic).text}\n\n{code}\n", "f"), seed=0)


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "while True:\n        try: x = 1\n        except Exception: pass",
        "while True: torch.zeros(99).sum()",
    ],
)
def test_an_endless_loop_costs_one_limit(monkeypatch, body):
    code = f"def compute_leave_one_out(rewards, group_size):\n    {body}"
    first, *others = outcomes_of(code, monkeypatch, "compute_leave_one_out")
    assert first.out_of_time
    assert "endless loop" in first.text()
    assert others
    assert all("not run" in outcome.text() for outcome in others)


def test_a_pause_costs_nothing(monkeypatch):
    """Waiting is not work: a machine that others use, or a student at the debugger's prompt."""
    code = RIGHT.replace("\n    return", "\n    __import__('time').sleep(1.7)\n    return")
    assert {outcome.state for outcome in outcomes_of(code, monkeypatch, seconds=1.5)} == {"passed"}


@pytest.mark.parametrize("body", ["exit()", "raise SystemExit(3)", "raise KeyError('x')"])
def test_an_answer_that_ends_the_process_is_wrong(monkeypatch, body):
    (outcome,) = outcomes_of(f"def spread_over_tokens(advantages, gen_len):\n    {body}", monkeypatch)
    assert outcome.crashed


# What is printed


def test_prints_of_a_failing_check_are_shown_and_of_a_passing_one_not(monkeypatch, capsys):
    (outcome,) = outcomes_of(DIVIDED.replace("\n    return", "\n    print('shape', 7)\n    return"), monkeypatch)
    assert "printed" in outcome.text()
    assert "shape 7" in outcome.text()
    outcomes_of(RIGHT.replace("\n    return", "\n    print('shape', 7)\n    return"), monkeypatch)
    assert capsys.readouterr().out == ""


def test_of_many_prints_the_last_are_shown(monkeypatch):
    code = DIVIDED.replace("\n    return", "\n    for i in range(99): print('line', i)\n    return")
    text = outcomes_of(code, monkeypatch)[0].text()
    assert "line 98" in text
    assert "line 2\n" not in text
    assert "lines before these" in text


def test_pytest_shows_prints_too(checkout):
    fill(checkout, "grpo", "spread_over_tokens", DIVIDED.replace("\n    return", "\n    print('shape', 7)\n    return"))
    words = [sys.executable, "-m", "pytest", "tests/test_grpo.py", "-k", "spread_over_tokens", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, env=environment(checkout))
    assert "printed" in done.stdout
    assert "shape 7" in done.stdout


# At a terminal


class Terminal:
    """A process at a terminal of its own."""

    def __init__(self, words, cwd, env):
        self.screen, end = pty.openpty()
        options = {"stdin": end, "stdout": end, "stderr": end, "close_fds": True}
        self.process = subprocess.Popen(words, cwd=cwd, env=env, start_new_session=True, **options)
        os.close(end)
        self.text = ""

    def wait_for(self, text, seconds=90):
        """Read until a text has come; returns what came since the last call."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            ready, _, _ = select.select([self.screen], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} within {seconds} s in {self.text!r}"
            try:
                self.text += os.read(self.screen, 4096).decode()
            except OSError:
                raise AssertionError(f"ended without {text!r}: {self.text!r}") from None
        came, self.text = self.text, ""
        return came

    def type(self, text):
        os.write(self.screen, text.encode())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.screen)


@pytest.fixture
def warm_folder():
    """Where the warm process of a test lives; it is told to end afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    yield folder
    for place in folder.glob("rlhf-course-*"):
        assert warm.greeted(place, "end") is None
    deadline = time.monotonic() + 10
    while list(folder.glob("*/socket")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(folder.glob("*/socket"))
    shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.skipif(not warm.IS_POSSIBLE, reason="no warm process on this system")
class TestWarm:
    def test_the_second_check_finds_the_first_ones_process(self, checkout, warm_folder):
        env = environment(checkout, RLHF_COURSE_WARM="1", XDG_RUNTIME_DIR=str(warm_folder))
        found = []
        for answer, code in ((DIVIDED, 1), (RIGHT, 0), (DIVIDED, 1)):
            fill(checkout, "grpo", "spread_over_tokens", answer)
            done = subprocess.run(CHECK, cwd=checkout, env=env, capture_output=True, text=True)
            assert done.returncode == code, done.stderr
            here = subprocess.run(CHECK, cwd=checkout, env={**env, "RLHF_COURSE_WARM": "0"}, capture_output=True, text=True)
            assert here.stdout == done.stdout
            (place,) = warm_folder.glob("rlhf-course-*/socket")
            found.append(place.stat().st_ino)
        assert len(set(found)) == 1
        assert (place.parent.stat().st_mode & 0o777) == 0o700

    def test_a_changed_chapter_needs_another_process(self, checkout, warm_folder):
        before = warm.stamp(checkout)
        (checkout / "chapters" / "4_grpo.md").touch()
        assert warm.stamp(checkout) != before

    def test_a_folder_of_somebody_else_is_not_used(self, checkout, warm_folder, monkeypatch):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(warm_folder))
        warm.private_folder(checkout).chmod(0o755)
        with pytest.raises(PermissionError):
            warm.private_folder(checkout)
        monkeypatch.setenv("RLHF_COURSE_WARM", "1")
        assert warm.run(checkout, ["course", "status"]) is None

    def test_code_that_ends_the_process(self, checkout, warm_folder):
        fill(
            checkout,
            "grpo",
            "spread_over_tokens",
            "def spread_over_tokens(advantages, gen_len):\n    __import__('os')._exit(0)",
        )
        env = environment(checkout, RLHF_COURSE_WARM="1", XDG_RUNTIME_DIR=str(warm_folder))
        done = subprocess.run(CHECK, cwd=checkout, env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert "ended the checker" in done.stderr

    def test_the_debugger_and_ctrl_c(self, checkout, warm_folder):
        fill(checkout, "grpo", "spread_over_tokens", RIGHT.replace("\n    return", "\n    breakpoint()\n    return"))
        env = environment(checkout, RLHF_COURSE_WARM="1", XDG_RUNTIME_DIR=str(warm_folder))
        with Terminal(CHECK, checkout, env) as terminal:
            terminal.wait_for("(Pdb)")
            terminal.type("p gen_len + 1000\n")
            terminal.wait_for("1003")
            terminal.type("q\n")
            terminal.wait_for("Left the debugger")
            assert terminal.process.wait(20) == 1
        fill(checkout, "grpo", "spread_over_tokens", RIGHT.replace("\n    return", "\n    while True: pass\n    return"))
        with Terminal(CHECK, checkout, env) as terminal:
            time.sleep(2)
            os.kill(terminal.process.pid, signal.SIGINT)
            assert terminal.process.wait(20) == 130


@pytest.mark.slow
def test_keys_while_watching(checkout):
    fill(checkout, "grpo", "spread_over_tokens", DIVIDED)
    with Terminal([*CHECK, "--watch"], checkout, environment(checkout)) as terminal:
        terminal.wait_for("q quit")
        terminal.type("h")
        assert "Hint 1 of" in terminal.wait_for("q quit")
        terminal.type("l")
        assert "spread_over_tokens" in terminal.wait_for("q quit")
        terminal.type("r")
        assert "divided among the tokens" in terminal.wait_for("q quit")
        terminal.type("q")
        terminal.wait_for("Stopped watching")
        assert terminal.process.wait(20) == 1


def test_a_reader_who_leaves_early_is_no_error(checkout):
    words = f"{sys.executable} -m rlhf_lib course status | head -n 1"
    done = subprocess.run(words, shell=True, cwd=checkout, capture_output=True, text=True, env=environment(checkout))
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    closed = f"{sys.executable} -m rlhf_lib course hint take | true"
    done = subprocess.run(closed, shell=True, cwd=checkout, capture_output=True, text=True, env=environment(checkout))
    assert done.stderr == ""


def test_pytest_outside_the_environment_says_how_to_get_in(tmp_path):
    """A Python with pytest but without the library's packages."""
    (tmp_path / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / "test_any.py").write_text("def test_any():\n    pass\n")
    (tmp_path / "rlhf_lib.py").write_text("raise ModuleNotFoundError(\"No module named 'rlhf_lib'\", name='rlhf_lib')")
    words = [sys.executable, "-m", "pytest", "tests", "-p", "no:cacheprovider"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode != 0
    assert "make shell" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    "typo", ["compute_group_advantage", "compute_grop_advantages", "group_advantages", "Compute_Group_Advantages"]
)
def test_a_typo_in_a_name_is_told_what_was_meant(checkout, typo):
    with pytest.raises(Exception, match=r"did you mean.*compute_group_advantages"):
        find_exercise(checkout, typo)
