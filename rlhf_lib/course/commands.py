"""rlhf course ...: the student's command line. Exit codes: 0 done, 1 not yet, 2 a mistake in what was given."""

import argparse
import bdb
import difflib
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile, get_terminal_size
from typing import NoReturn

from rlhf_lib.args import InputError
from rlhf_lib.course import keys, source
from rlhf_lib.course.manifest import Exercise, all_exercises, checkout_root, find_exercise, load_course
from rlhf_lib.course.progress import Progress
from rlhf_lib.files import write_atomically

HELP = """usage: rlhf course COMMAND

Your way through the course:
  rlhf course status               where you stand, and what comes next
  rlhf course check [NAME]         check an exercise (default: the next one); --watch: again on every save
  rlhf course hint NAME            a hint, one more each time
  rlhf course solution NAME        your answer beside the solution; locked until passed, or --give-up
  rlhf course reset NAME           put an exercise's stub back; your file is kept as a dated copy

For those who write it:
  rlhf course render               write exercises/, solutions/ and the chapters' folded solutions from the library
  rlhf course validate             prove that the checkers reject and name every known mistake (--json: counts only)
  rlhf course mutate [NAME]        try every small edit of the solutions on the checkers; list what they accept
"""

KEYS = "h hint, l list, r run again, q quit"


class Parser(argparse.ArgumentParser):
    """A parser that says a mistake in one sentence, as every other command does."""

    def error(self, message: str) -> NoReturn:
        """Raise with what argparse found."""
        raise InputError(f"{self.prog}: {message}; {self.prog} --help says what it takes")


def status(root: Path, words: list[str]) -> int:
    """rlhf course status"""
    parse(Parser(prog="rlhf course status"), words)
    from rlhf_lib.course.report import status_table

    progress = Progress.load(root)
    print(status_table(root, progress, get_terminal_size().columns))
    return 0 if progress.next_exercise() is None else 1


def check(root: Path, words: list[str]) -> int:
    """rlhf course check"""
    parser = Parser(prog="rlhf course check")
    parser.add_argument("name", nargs="?", help="exercise name or number; left out, the first that is not passed")
    parser.add_argument("--watch", action="store_true", help="check again whenever the file is saved, until it is passed")
    parser.add_argument("--input-seed", type=int, default=None, help="seed of the random inputs, to see the same again")
    given = parse(parser, words)
    progress = Progress.load(root)
    exercise = find_exercise(root, given.name) if given.name else progress.next_exercise()
    if exercise is None:
        print("Every exercise is passed.")
        return 0
    seed = secrets.randbelow(10_000) if given.input_seed is None else given.input_seed
    if given.watch and progress.state(exercise) == "passed":
        print(f"{exercise.name} is passed already; nothing to watch.")
        return 0
    return watch(root, exercise, seed) if given.watch else check_once(root, exercise, seed)


def check_once(root: Path, exercise: Exercise, seed: int) -> int:
    """Check one exercise in the warm process, or here if there can be none; 0 if it is passed."""
    from rlhf_lib.course import warm

    code = warm.run(root, ["course", "check", exercise.name, "--input-seed", str(seed)])
    return check_here(root, exercise, seed) if code is None else code


def check_here(root: Path, exercise: Exercise, seed: int) -> int:
    """Check one exercise, print what was found, keep the state; 0 if it is passed."""
    from rlhf_lib.course.assemble import answers
    from rlhf_lib.course.checks import run_exercise, with_diagnosis
    from rlhf_lib.course.outcomes import state_of
    from rlhf_lib.course.report import summary_table, wrong_answer

    answer = answers(root, exercise.topic)
    try:
        outcomes = run_exercise(root, exercise, answer, seed)
    except bdb.BdbQuit:
        print("Left the debugger; the check did not end.")
        return 1
    state = state_of(outcomes)
    progress = Progress.load(root)
    progress.note(exercise, state)
    if state == "wrong":
        first = next(outcome for outcome in outcomes if outcome.state == "wrong")
        print(wrong_answer(exercise, outcomes), flush=True)  # before its name is looked for, which may take longer
        with_diagnosis(root, exercise, answer, first, seed, {outcome.check: outcome for outcome in outcomes})
        print(*[f"  {label}  {text}" for label, text in first.lines if label == "diagnosis"], sep="\n")
        print(f"Inputs are random; the same ones again: --input-seed {seed}")
    print("\n" + summary_table({exercise: outcomes}, get_terminal_size().columns), flush=True)
    return 0 if state == "passed" else 1


def watch(root: Path, exercise: Exercise, seed: int, pause: float = 0.2) -> int:
    """Check at every save until the exercise is passed; keys give a hint, the list, another run, the end."""
    file = root / "exercises" / f"{exercise.topic}.py"
    help_line = KEYS if keys.are_read() else "Ctrl-C leaves"
    print(f"Watching {file.name} for {exercise.name} until it is passed.", flush=True)
    seen = None
    try:
        while True:
            now = file.stat().st_mtime_ns if file.exists() else None
            if now != seen:
                seen = now
                if check_once(root, exercise, seed) == 0:
                    return 0
                print(help_line, flush=True)
            with keys.single_keys():
                key = keys.pressed(pause)
            if key == "q":
                raise KeyboardInterrupt
            if key == "r":
                seen = None
            elif key in ("h", "l"):
                hint(root, [exercise.name]) if key == "h" else status(root, [])
                print(help_line, flush=True)
    except KeyboardInterrupt:
        print("\nStopped watching.")
        return 1


def hint(root: Path, words: list[str]) -> int:
    """rlhf course hint NAME"""
    exercise = named(root, "hint", words)
    progress = Progress.load(root)
    record = progress.of(exercise)
    record.hints = min(record.hints + 1, len(exercise.hints))
    progress.save()
    for number, text in enumerate(exercise.hints[: record.hints], 1):
        print(f"Hint {number} of {len(exercise.hints)}\n{text}\n")
    if record.hints == len(exercise.hints):
        print(f"That is all; `rlhf course solution {exercise.name} --give-up` shows the solution.")
    return 0


def solution(root: Path, words: list[str]) -> int:
    """rlhf course solution NAME"""
    parser = Parser(prog="rlhf course solution")
    parser.add_argument("name")
    parser.add_argument("--give-up", action="store_true", help="show it although the exercise is not passed")
    given = parse(parser, words)
    exercise = find_exercise(root, given.name)
    progress = Progress.load(root)
    if progress.state(exercise) != "passed" and not given.give_up:
        print(f"{exercise.name} is not passed yet. A hint: rlhf course hint {exercise.name}; or add --give-up to see it now.")
        return 1
    from rlhf_lib.course.assemble import answers, solutions

    yours, ours = answers(root, exercise.topic), solutions(root, exercise.topic)
    for name in exercise.local_targets:
        mine = source.find(yours.tree(), name)
        before = source.text_of(yours.text, mine).splitlines() if mine else []
        after = source.text_of(ours.text, source.find(ours.tree(), name)).splitlines()
        print("\n".join(difflib.unified_diff(before, after, f"yours: {name}", f"solution: {name}", n=100, lineterm="")))
    return 0


def reset(root: Path, words: list[str]) -> int:
    """rlhf course reset NAME"""
    from rlhf_lib.course.assemble import Implementation, answers, with_edits
    from rlhf_lib.course.render import render_stubs, with_fingerprint

    exercise = named(root, "reset", words)
    file = root / "exercises" / f"{exercise.topic}.py"
    fresh = render_stubs(exercise.topic, load_course(root)[exercise.topic])
    backup = None
    if file.exists():
        backup = file.with_name(f"{file.stem}.{time.strftime('%Y%m%d-%H%M%S')}.bak")
        copyfile(file, backup)
    stub, yours = Implementation(fresh, str(file)), answers(root, exercise.topic)
    for name in exercise.local_targets:
        if source.find(yours.tree(), name) is None:
            raise InputError(
                f"exercises/{file.name} has no {name} to put the stub in the place of; "
                "move the file away and run `rlhf course render`"
            )
        yours = with_edits(yours, name, source.text_of(fresh, source.find(stub.tree(), name)))
    body = yours.text.partition("\n")[2]
    file.write_text(with_fingerprint(fresh) if body == fresh else yours.text)
    print(f"{exercise.name} is a stub again." + (f" Your file as it was: {backup.relative_to(root)}" if backup else ""))
    return 0


def render(root: Path, words: list[str]) -> int:
    """rlhf course render"""
    from rlhf_lib.course.render import write_course

    parse(Parser(prog="rlhf course render"), words)
    written, edited = write_course(root)
    for file in written:
        print(f"wrote {file.relative_to(root)}")
    for file in edited:
        print(f"left alone {file.relative_to(root)}: it has edits (`rlhf course reset NAME` restores one exercise)")
    return 1 if edited else 0


def validate(root: Path, words: list[str]) -> int:
    """rlhf course validate"""
    from rlhf_lib.course.validate import as_counts, as_table
    from rlhf_lib.course.validate import validate as prove

    parser = Parser(prog="rlhf course validate")
    parser.add_argument("names", nargs="*", help="exercises or topics; left out, all")
    parser.add_argument("--json", action="store_true", help="print one JSON object of counts")
    parser.add_argument("--input-seed", type=int, default=0, help="seed of the random inputs")
    given = parse(parser, words)
    found = list(prove(root, named_or_all(root, given.names), given.input_seed))
    print(json.dumps(as_counts(found)) if given.json else as_table(found))
    return 0 if all(each.holds for each in found) else 1


def mutate(root: Path, words: list[str]) -> int:
    """rlhf course mutate [NAME]"""
    from rlhf_lib.course.mutate import as_page, as_table, is_accepted
    from rlhf_lib.course.mutate import mutate as try_all

    parser = Parser(prog="rlhf course mutate")
    parser.add_argument("names", nargs="*", help="exercises or topics; left out, all")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes at work")
    parser.add_argument("--out", type=Path, default=None, help="file of results; an interrupted run goes on from it")
    parser.add_argument("--table", type=Path, default=None, help="file to write the table to, in Markdown")
    parser.add_argument("--input-seed", type=int, default=0, help="seed of the random inputs")
    given = parse(parser, words)
    fates = list(try_all(root, named_or_all(root, given.names), given.input_seed, given.jobs, given.out))
    print(as_table(fates, root))
    if given.table is not None:
        write_atomically(given.table, as_page(fates, root))
    return 1 if any(map(is_accepted, fates)) else 0


def named_or_all(root: Path, names: list[str]) -> list[Exercise]:
    """The exercises of some names, numbers or topics; all without any."""
    exercises = all_exercises(root)
    for name in names:
        if not any(name in (e.name, e.number, e.topic) for e in exercises):
            raise InputError(f"{name}: no such exercise or topic; rlhf course status lists them all")
    return [e for e in exercises if not names or {e.name, e.number, e.topic} & set(names)]


def named(root: Path, command: str, words: list[str]) -> Exercise:
    """The exercise that a command's only argument names."""
    parser = Parser(prog=f"rlhf course {command}")
    parser.add_argument("name", help=f"one of {', '.join(e.name for e in all_exercises(root))}")
    return find_exercise(root, parse(parser, words).name)


def parse(parser: Parser, words: list[str]) -> argparse.Namespace:
    """Parsed words; a mistake is an InputError."""
    return parser.parse_args(words)


COMMANDS: dict[str, Callable[[Path, list[str]], int]] = {
    "status": status,
    "check": check,
    "hint": hint,
    "solution": solution,
    "reset": reset,
    "render": render,
    "validate": validate,
    "mutate": mutate,
}


def main(words: list[str]) -> int:
    """Run one course command."""
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        raise InputError(f"course {words[0]!r} is not a command; use {', '.join(COMMANDS)}")
    return COMMANDS[words[0]](checkout_root(), words[1:])
