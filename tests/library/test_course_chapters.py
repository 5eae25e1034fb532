"""Chapters are whole, and rendering from the library is stable and current."""

import ast
import json
import re

import pytest

from rlhf_lib.course import NotAttempted, commands, source
from rlhf_lib.course import render as rendering
from rlhf_lib.course.assemble import solutions
from rlhf_lib.course.bank import bank_of
from rlhf_lib.course.checks import checks_of
from rlhf_lib.course.manifest import all_exercises, load_course

from .course_answers import RIGHT, ROOT, fill, stubs


def words_of(chapter):
    """Words of a chapter's prose: folds, code, formulas, and the exercises' headings and lines of figures left out."""
    text = re.sub(r"<details.*?</details>|```.*?```|\$\$.*?\$\$", "", chapter, flags=re.DOTALL)
    text = re.sub(r"^(### Exercise|\*Difficulty).*$", "", text, flags=re.MULTILINE)
    return len(text.split())


# Chapters


def test_the_readme_counts_exercises_and_mistakes():
    exercises = all_exercises(ROOT)
    text = (ROOT / "README.md").read_text()
    assert f"{len(exercises)}\nexercises" in text
    assert f"{sum(len(bank_of(exercise)) for exercise in exercises):,} mistakes" in text


PAGES = ("README.md", "CONTRIBUTING.md", "rlhf_lib/README.md", "benchmarks/README.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", (ROOT / page).read_text(), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\(([^)#]*?)(?:#([^)]*))?\)", text):
        target = (ROOT / page).parent / link if link else ROOT / page
        assert "://" in link or target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], anchor


def test_the_readme_is_an_introduction():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("topic", load_course(ROOT))
class TestChapter:
    def test_length(self, topic):
        text = (ROOT / "chapters" / load_course(ROOT)[topic][0].chapter).read_text()
        assert 1500 <= words_of(text) <= 4000

    def test_exercises(self, topic):
        exercises = load_course(ROOT)[topic]
        assert len(exercises) >= 6
        assert [e.number.split(".")[1] for e in exercises] == [str(i + 1) for i in range(len(exercises))]
        for exercise in exercises:
            assert 2 <= len(exercise.hints) <= 3, exercise.name
            assert checks_of(ROOT, exercise), exercise.name

    def test_figures_and_pages_exist(self, topic):
        text = (ROOT / "chapters" / load_course(ROOT)[topic][0].chapter).read_text()
        text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
        links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
        assert any(link.endswith(".png") for link in links)
        for link in links:
            assert "://" in link or (ROOT / "chapters" / link).exists(), link

    def test_every_check_belongs_to_an_exercise(self, topic):
        tree = ast.parse((ROOT / "tests" / f"test_{topic}.py").read_text())
        found = {n.name.removeprefix("test_").split("__")[0] for n in tree.body if getattr(n, "name", "").startswith("test_")}
        assert found == {e.name for e in load_course(ROOT)[topic]}


def test_at_least_thirty_exercises():
    assert len(all_exercises(ROOT)) >= 30


# Rendering


def test_rendering_twice_gives_the_same_bytes():
    assert rendering.render(ROOT) == rendering.render(ROOT)


def test_rendered_files_are_current():
    """Run `rlhf course render` after changing the library or a chapter; a student's own edits are no staleness."""
    for file, text in rendering.render(ROOT).items():
        if file.parent.name == "exercises" and rendering.is_edited(file):
            continue
        assert file.read_text() == text, f"{file.relative_to(ROOT)} is stale: run `rlhf course render`"


def test_a_stub_keeps_signature_and_docstring_and_raises():
    for topic, exercises in load_course(ROOT).items():
        stub, solved = stubs(topic).tree(), solutions(ROOT, topic).tree()
        for exercise in exercises:
            for name in exercise.local_targets:
                ours, theirs = source.find(stub, name), source.find(solved, name)
                assert ast.unparse(ours.args) == ast.unparse(theirs.args)
                assert ast.get_docstring(ours) == ast.get_docstring(theirs) is not None
                assert "NotAttempted" in ast.unparse(ours.body[-1])


def test_not_attempted_names_exercise_and_place():
    error = NotAttempted("take", "chapters/1_rollouts.md, exercise 1.1")
    assert isinstance(error, NotImplementedError)
    assert "take" in str(error)
    assert "chapters/1_rollouts.md" in str(error)


def test_rendering_leaves_an_edited_stub_alone(checkout, capsys):
    fill(checkout, "grpo", "spread_over_tokens", RIGHT)
    edited = (checkout / "exercises" / "grpo.py").read_text()
    (checkout / "exercises" / "ppo.py").unlink()
    assert commands.main(["render"]) == 1
    assert "left alone exercises/grpo.py" in capsys.readouterr().out
    assert (checkout / "exercises" / "grpo.py").read_text() == edited
    assert (checkout / "exercises" / "ppo.py").exists()


def test_the_ppo_chapter_quotes_its_runs_as_they_were():
    """Numbers and samples in "Reading a run" are those of chapters/figures/ppo-full-stops.json."""
    text = " ".join((ROOT / "chapters" / "2_ppo.md").read_text().split())
    free, tied = json.loads((ROOT / "chapters" / "figures" / "ppo-full-stops.json").read_text())
    (first, last), (before, after) = ((run["records"][0], run["records"][-1]) for run in (free, tied))
    assert (free["kl_coef"], tied["kl_coef"], len(free["records"])) == (0.0, 2.5, 30)
    for quoted in (
        f"With `kl_coef` 0 the reward goes from {first['reward']:.1f} to {last['reward']:.1f}",
        " ".join(f"{sample!r}" for sample in free["samples"]["last"]),
        f"with {last['kl']:.1f} nats per token at the end",
        f"down from {first['entropy']:.2f} to {last['entropy']:.2f}",
        f"KL stays near {after['kl']:.2f}",
        f"the reward gains {after['reward'] - before['reward']:.1f}",
        f"it climbs to about {after['explained_variance']:.1f}",
    ):
        assert quoted in text, quoted
