"""The chapters are the manifest: every exercise's targets, figures and hints are read from its section of the Markdown.

An exercise's section looks like this; `write` names the library's functions or methods that the student writes:

    ### Exercise 4.1: compute_group_advantages

    *Difficulty 2/5 · importance 5/5 · 10 minutes · 4 points* · write `rlhf_lib.advantages.compute_group_advantages`

    ...prose...

    <details markdown="1"><summary>Hint 1</summary>
    ...
    </details>
    <details markdown="1"><summary>Solution</summary>
    (filled in by `rlhf course render`)
    </details>
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlhf_lib.args import InputError

HEADING = re.compile(r"^### Exercise (\d+\.\d+): (\w+)$", re.MULTILINE)
FIGURES = re.compile(
    r"^\*Difficulty (\d)/5 · importance (\d)/5 · (\d+) minutes · (\d+) points?\* · write ((?:`[\w.]+`(?:, )?)+)$", re.MULTILINE
)
HINT = re.compile(r'<details markdown="1"><summary>Hint \d</summary>\n+(.*?)\n+</details>', re.DOTALL)
SOLUTION = re.compile(r'(<details markdown="1"><summary>Solution</summary>\n).*?(</details>)', re.DOTALL)


@dataclass(frozen=True)
class Exercise:
    """One exercise of a chapter."""

    name: str
    number: str
    topic: str
    chapter: str
    """The chapter's file name."""
    difficulty: int
    importance: int
    minutes: int
    points: int
    targets: tuple[str, ...]
    """Dotted names in the library: functions, or methods of a class."""
    hints: tuple[str, ...]

    @property
    def where(self) -> str:
        """Chapter and exercise number, for messages."""
        return f"chapters/{self.chapter}, exercise {self.number}"

    @property
    def local_targets(self) -> tuple[str, ...]:
        """The targets' names within the topic's file: "normalize_reward" or "RLHFTrainer.rollout_phase"."""
        return tuple(local_name(target) for target in self.targets)


def local_name(target: str) -> str:
    """The part of a dotted library name that stands in the module: function, or class and method."""
    parts = target.split(".")
    return ".".join(parts[-2:]) if parts[-2][0].isupper() else parts[-1]


def checkout_root(start: Path | None = None) -> Path:
    """The folder of the course: the nearest one upwards, or the library's own, that has chapters and exercises."""
    for folder in (*(p for s in [start or Path.cwd()] for p in (s, *s.parents)), Path(__file__).parents[2]):
        if (folder / "chapters").is_dir() and (folder / "rlhf_lib").is_dir():
            return folder
    raise InputError(
        "no course here: a folder with chapters/ and exercises/ is needed; run this inside a clone of the repository"
    )


def parse_chapter(file: Path) -> tuple[Exercise, ...]:
    """All exercises of a chapter, in order."""
    text, found = file.read_text(), []
    headings = list(HEADING.finditer(text))
    topic = file.stem.split("_", 1)[1]
    for heading, following in zip(headings, [*headings[1:], None], strict=True):
        section = text[heading.end() : following.start() if following else None]
        figures = FIGURES.search(section)
        if figures is None:
            raise InputError(
                f"{file.name}: exercise {heading[2]} lacks its line of figures; write "
                "'*Difficulty 2/5 · importance 5/5 · 10 minutes · 4 points* · write `rlhf_lib.module.name`' under the heading"
            )
        difficulty, importance, minutes, points = (int(figure) for figure in figures.groups()[:4])
        targets = tuple(re.findall(r"`([\w.]+)`", figures[5]))
        hints = tuple(HINT.findall(section))
        found.append(
            Exercise(heading[2], heading[1], topic, file.name, difficulty, importance, minutes, points, targets, hints)
        )
    return tuple(found)


@cache
def load_course(root: Path) -> dict[str, tuple[Exercise, ...]]:
    """Every topic's exercises, in the order of the chapters."""
    files = sorted((root / "chapters").glob("[0-9]*_*.md"))
    course = {file.stem.split("_", 1)[1]: parse_chapter(file) for file in files}
    names = [exercise.name for exercises in course.values() for exercise in exercises]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two exercises are called {name}; give each its own name")
    return course


def all_exercises(root: Path) -> list[Exercise]:
    """The whole course in order."""
    return [exercise for exercises in load_course(root).values() for exercise in exercises]


def find_exercise(root: Path, name: str) -> Exercise:
    """The exercise of a name or number."""
    for exercise in all_exercises(root):
        if name in (exercise.name, exercise.number):
            return exercise
    names = [exercise.name for exercise in all_exercises(root)]
    inside = [other for other in names if name.lower() in other.lower()]
    near = ", ".join(inside or difflib.get_close_matches(name.lower(), names, n=3))
    raise InputError(
        f"{name!r} is not an exercise; {'did you mean ' + near + '?' if near else 'rlhf course status lists them all'}"
    )
