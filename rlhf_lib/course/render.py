"""Writes exercises/, solutions/ and the folded solutions of the chapters from the library's own source.

A topic's file holds what its chapter's exercises name, whole, in the chapter's order, then `main` from
`rlhf_lib/course/demos`. In a stub the named bodies are replaced by a raise. All else is imported from the library.
"""

import ast
import hashlib
import sys
from collections import defaultdict
from pathlib import Path

import rlhf_lib
from rlhf_lib.args import InputError
from rlhf_lib.course import source
from rlhf_lib.course.manifest import HEADING, SOLUTION, Exercise, load_course

FINGERPRINT = "# Rendered by `rlhf course render`; fingerprint "
AT_HAND = (  # so that answers in the manner of other courses run as they are
    ("", "time", "time"),
    ("dataclasses", "dataclass", "dataclass"),
    ("", "einops", "einops"),
    ("", "numpy", "np"),
    ("", "torch", "t"),
    ("tabulate", "tabulate", "tabulate"),
    ("torch", "nn", "nn"),
)
BELOW_IMPORTS = """\
try:
    import wandb
except ImportError:
    wandb = None

device = t.device("cuda" if t.cuda.is_available() else "cpu")
"""
Imports = set[tuple[str, str, str]]


def render(root: Path) -> dict[Path, str]:
    """Every file that rendering writes, with its text; the chapters with their solutions folded in."""
    files = {}
    for topic, exercises in load_course(root).items():
        files[root / "solutions" / f"{topic}.py"] = with_fingerprint(render_solutions(topic, exercises))
        files[root / "exercises" / f"{topic}.py"] = with_fingerprint(render_stubs(topic, exercises))
        chapter = root / "chapters" / exercises[0].chapter
        files[chapter] = fold_solutions(chapter.read_text(), exercises)
    return files


def write_course(root: Path) -> tuple[list[Path], list[Path]]:
    """Write all files; returns those written, and the edited ones that were left alone."""
    written, edited = [], []
    for file, text in render(root).items():
        if file.exists() and file.read_text() == text:
            continue
        if file.suffix == ".py" and is_edited(file):
            edited.append(file)
            continue
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        written.append(file)
    return written, edited


def with_fingerprint(text: str) -> str:
    """The text headed by its own hash, by which an edited file is recognised."""
    return f"{FINGERPRINT}{fingerprint(text)}\n{text}"


def fingerprint(text: str) -> str:
    """A short hash."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_edited(file: Path) -> bool:
    """Whether a file differs from what was rendered into it."""
    if not file.exists():
        return False
    head, _, rest = file.read_text().partition("\n")
    return head != FINGERPRINT + fingerprint(rest)


def pieces_of(exercises: tuple[Exercise, ...]) -> dict[tuple[str, str], source.Module]:
    """What a topic's file holds in order: (module, function or class) that the exercises' targets lie in."""
    pieces = {}
    for exercise in exercises:
        for target in exercise.targets:
            module, name = source.locate(target)
            module.definition(name)
            pieces[module.name, name.split(".")[0]] = module
    return pieces


def body_of(topic: str, exercises: tuple[Exercise, ...]) -> tuple[str, Imports]:
    """The topic's code without imports, and the imports that it needs."""
    demo = source.library_module(f"rlhf_lib.course.demos.{topic}")
    pieces = {**pieces_of(exercises), (demo.name, "main"): demo}
    texts, imports, own = [], set(), {name for _, name in pieces}
    for (_, name), module in pieces.items():
        node = module.definition(name)
        texts.append(source.text_of(module.text, node))
        for used in source.names_used(node) - own:
            origin = source.origin_of(module, used)
            if origin is not None:
                imports.add(origin)
    return "\n\n\n".join(texts), imports


def summary_of(topic: str) -> str:
    """What the topic's file is about: the first line of its demo's docstring."""
    return ast.get_docstring(source.library_module(f"rlhf_lib.course.demos.{topic}").tree).splitlines()[0]


def render_solutions(topic: str, exercises: tuple[Exercise, ...]) -> str:
    """The text of solutions/<topic>.py."""
    body, imports = body_of(topic, exercises)
    head = (
        f'"""Solutions of chapters/{exercises[0].chapter}; run them with `python -m solutions.{topic}`.\n\n'
        f'{summary_of(topic)}\n"""\n'
    )
    return f'{head}\n{import_block(imports)}\n\n{body}\n\n\nif __name__ == "__main__":\n    main()\n'


def render_stubs(topic: str, exercises: tuple[Exercise, ...]) -> str:
    """The text of exercises/<topic>.py."""
    body, imports = body_of(topic, exercises)
    statements = {}
    for exercise in exercises:
        for name in exercise.local_targets:
            statements.setdefault(name, f'raise NotAttempted("{exercise.name}", "{exercise.where}")')
    defined = {name.split(".")[0] for name in statements} | {"main"}
    known = defined | {here for _, _, here in imports}
    exported = {(module, name, name) for module, names in rlhf_lib.EXPORTS.items() for name in names if name not in known}
    imports |= exported | set(AT_HAND) | {("rlhf_lib.course", "NotAttempted", "NotAttempted")}
    head = (
        f'"""Exercises of chapters/{exercises[0].chapter}: fill in what raises NotAttempted.\n\n'
        f"Check your answers with `pytest tests/test_{topic}.py` (add -k NAME for one exercise), get a hint with\n"
        f'`rlhf course hint NAME`, and see your own code at work with `python -m exercises.{topic}`.\n"""\n'
    )
    end = f'if __name__ == "__main__":\n    from rlhf_lib.course.own import run_own\n\n    run_own("{topic}", globals())\n'
    stubs = source.strip_bodies(body, statements)
    return f"{head}\n{import_block(imports)}\n{BELOW_IMPORTS}\n\n{stubs}\n\n\n{end}"


def import_block(imports: Imports) -> str:
    """Import statements in the usual order: standard library, third party, library."""
    lines: dict[int, list[tuple[str, str]]] = defaultdict(list)
    grouped = defaultdict(set)
    for module, name, here in imports:
        alias = name if name == here else f"{name} as {here}"
        if module:
            grouped[module].add(alias)
        else:
            lines[section(name)].append((name, f"import {alias}"))
    for module, names in grouped.items():
        lines[section(module)].append((module, from_import(module, sorted(names, key=import_order))))
    blocks = []
    for part in sorted(lines):
        plain = sorted(line for line in lines[part] if line[1].startswith("import"))
        froms = sorted(line for line in lines[part] if line[1].startswith("from"))
        blocks.append("\n".join(line for _, line in [*plain, *froms]))
    return "\n\n".join(blocks) + "\n"


def section(module: str) -> int:
    """0 standard library, 1 third party, 2 this library."""
    top = module.split(".")[0]
    return 0 if top in sys.stdlib_module_names else 2 if top == "rlhf_lib" else 1


def import_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest, each in alphabetical order."""
    bare = name.split(" ")[0]
    return (0 if bare.isupper() and len(bare) > 1 else 1 if bare[0].isupper() else 2), name


def from_import(module: str, names: list[str], width: int = 128) -> str:
    """One from-import, over several lines when it is long."""
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= width:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def fold_solutions(text: str, exercises: tuple[Exercise, ...]) -> str:
    """A chapter's text with every exercise's solution from the library in its fold."""
    parts = []
    starts = [match.start() for match in HEADING.finditer(text)]
    parts.append(text[: starts[0]])
    for exercise, start, stop in zip(exercises, starts, [*starts[1:], None], strict=True):
        part = text[start:stop]
        if not SOLUTION.search(part):
            raise InputError(f"{exercise.where} has no fold for its solution; add the lines of manifest.py's example")
        found = [source.locate(target) for target in exercise.targets]
        code = "\n\n".join(source.dedented(source.text_of(module.text, module.definition(name))) for module, name in found)
        parts.append(SOLUTION.sub(lambda match, code=code: f"{match[1]}\n```python\n{code}\n```\n\n{match[2]}", part, count=1))
    return "".join(parts)
