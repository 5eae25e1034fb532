"""A student's own trainer, all of it: with the solutions pasted in, it learns."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from .conftest import ROOT


@pytest.mark.slow
def test_the_course_trainer_with_the_solutions_pasted_in_learns(tmp_path):
    for folder in ("exercises", "solutions", "chapters", "tests", "rlhf_lib"):
        (tmp_path / folder).symlink_to(ROOT / folder) if folder != "exercises" else (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file in (ROOT / "solutions").glob("*.py"):
        shutil.copy(file, tmp_path / "exercises")
    words = [sys.executable, "-m", "exercises.grpo", "--total-phases", "8", "--eval-problems", "100", "--output-dir", "run"]
    settings = {**os.environ, "PYTHONPATH": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    before, after = (summary[f"accuracy_greedy_{when}"]["value"] for when in ("before", "after"))
    assert before < 0.2 < 0.8 < after
    assert not re.search("deprecated", done.stderr)
