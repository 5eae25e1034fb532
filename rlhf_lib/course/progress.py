"""Where a student stands: a small file in the checkout, safe to delete."""

import ast
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rlhf_lib.course import source
from rlhf_lib.course.assemble import answers
from rlhf_lib.course.manifest import Exercise, all_exercises
from rlhf_lib.files import write_atomically

FILE = ".rlhf-course.json"


@dataclass
class Record:
    """What is known of one exercise."""

    state: str = "todo"
    fingerprint: str = ""
    """Of the answer that the state belongs to."""
    hints: int = 0
    """Hints shown so far."""


@dataclass
class Progress:
    """The state of all exercises that were touched."""

    root: Path
    records: dict[str, Record] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path) -> "Progress":
        """Read the file; a missing or damaged one is an empty state."""
        try:
            saved = json.loads((root / FILE).read_text())
            return cls(root, {name: Record(**record) for name, record in saved.items()})
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(root)

    def save(self) -> None:
        """Write the file."""
        saved = {name: asdict(record) for name, record in self.records.items()}
        write_atomically(self.root / FILE, json.dumps(saved, indent=1) + "\n")

    def of(self, exercise: Exercise) -> Record:
        """The record of an exercise."""
        return self.records.setdefault(exercise.name, Record())

    def state(self, exercise: Exercise) -> str:
        """passed or wrong as last checked; unchecked if the answer is another by now; todo for a stub."""
        now = answer_fingerprint(self.root, exercise)
        if now is None:
            return "todo"
        record = self.of(exercise)
        return record.state if record.fingerprint == now else "unchecked"

    def note(self, exercise: Exercise, state: str) -> None:
        """Keep the result of a check."""
        record = self.of(exercise)
        record.state, record.fingerprint = state, answer_fingerprint(self.root, exercise) or ""
        self.save()

    def next_exercise(self) -> Exercise | None:
        """The first exercise that is not passed, in a chapter that was begun if there is one."""
        states = {exercise: self.state(exercise) for exercise in all_exercises(self.root)}
        begun = {exercise.topic for exercise, state in states.items() if state != "todo"}
        left = [exercise for exercise, state in states.items() if state != "passed"]
        return next((exercise for exercise in left if exercise.topic in begun), left[0] if left else None)


def answer_fingerprint(root: Path, exercise: Exercise) -> str | None:
    """A hash of the answer's code; None while all of it is a stub. In a file that cannot be parsed, of the whole file."""
    text = answers(root, exercise.topic).text
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    if not any(source.is_attempted(tree, name) for name in exercise.local_targets):
        return None
    nodes = [source.find(tree, name) for name in exercise.local_targets]
    code = "\n".join(source.text_of(text, node) for node in nodes if node is not None)
    return hashlib.sha256(code.encode()).hexdigest()[:12]
