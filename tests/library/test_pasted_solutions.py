"""A student's own code, all of it: every chapter's demo on the solutions pasted in, and on answers of the classic kind."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from rlhf_lib.course import source
from rlhf_lib.course.assemble import solutions, with_edits
from rlhf_lib.course.manifest import load_course
from rlhf_lib.course.own import targets_of

from .classic_answers import ANSWERS
from .conftest import ROOT
from .course_answers import stubs

SMALL = ("--warmup-steps", "0", "--eval-problems", "0", "--log-samples-every", "0", "--output-dir", "run")
DEMOS = {  # options that make a demo short
    "rollouts": (),
    "ppo": ("--total-phases", "2", *SMALL),
    "lora": ("--total-phases", "2", *SMALL),
    "grpo": ("--total-phases", "2", *SMALL),
    "reward_models": ("--steps", "4", *SMALL),
    "reasoning": ("--total-phases", "2", "--sft-epochs", "1", *SMALL),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the course whose exercises are solved."""
    return copy_of_course(tmp_path_factory.mktemp("course"))


def copy_of_course(folder):
    for name in ("solutions", "chapters", "tests", "rlhf_lib"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "exercises").mkdir()
    for topic in load_course(ROOT):
        (folder / "exercises" / f"{topic}.py").write_text(filled(topic))
    return folder


def filled(topic):
    """The exercises with the solutions' bodies in the stubs' places."""
    answer, solution = stubs(topic), solutions(ROOT, topic)
    for name in targets_of(ROOT, topic):
        answer = with_edits(answer, name, source.text_of(solution.text, source.find(solution.tree(), name)))
    return answer.text


def run_demo(checkout, topic, *options):
    words = [sys.executable, "-m", f"exercises.{topic}", *options]
    settings = {**os.environ, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=checkout, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search("deprecated", done.stderr)
    shown, library = (re.search(rf"{label}[^:]*: (.*)", done.stdout)[1] for label in ("of this chapter", "The library's"))
    return done.stdout, shown, library


@pytest.mark.slow
def test_grpo_on_the_solutions_pasted_in_learns(checkout):
    _, shown, _ = run_demo(checkout, "grpo", "--total-phases", "8", "--eval-problems", "100", "--output-dir", "learned")
    assert "GrpoTrainer.compute_rlhf_objective" in shown
    summary = json.loads((checkout / "learned" / "summary.json").read_text())
    before, after = (summary[f"accuracy_greedy_{when}"]["value"] for when in ("before", "after"))
    assert before < 0.2 < 0.8 < after


@pytest.mark.slow
@pytest.mark.parametrize("topic", DEMOS)
def test_every_demo_runs_on_the_solutions_pasted_in(checkout, topic):
    """All that the student has written is used."""
    shutil.rmtree(checkout / "run", ignore_errors=True)
    _, shown, library = run_demo(checkout, topic, *DEMOS[topic])
    assert shown != "none yet"
    assert library == "nothing"


@pytest.mark.slow
@pytest.mark.parametrize("topic", ["rollouts", "ppo", "grpo", "reasoning"])
def test_every_demo_runs_beside_classic_answers(tmp_path, topic):
    """What knows one prefix and no masks is used where it fits; the library's is where it does not."""
    checkout = copy_of_course(tmp_path)
    for name, code in ANSWERS.items():
        text = filled(name).replace('if __name__ == "__main__":', f'{code}\n\nif __name__ == "__main__":')
        (checkout / "exercises" / f"{name}.py").write_text(text)
    needed = re.findall(r"^class (\w+)|^def (\w+)", ANSWERS.get(topic, ""), re.MULTILINE)
    options = ("--task", "None", "--prefix", "This is", *DEMOS[topic]) if topic == "grpo" else DEMOS[topic]
    _, shown, _ = run_demo(checkout, topic, *options)
    assert all(max(pair) in shown for pair in needed)
