"""Runs the suite on the newest or the oldest versions that pyproject.toml allows; the newest that pass become the lock.

    make lock       writes tests/constraints.txt, once everything passed on what it will hold
    make oldest     prints how the suite fares on the lower bounds

Each fills a fresh environment under build/versions, by the rule of the Makefile that fills .venv.
"""

import argparse
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "tests" / "constraints.txt"
FOLDER = ROOT / "build" / "versions"
HEADER = """\
# What `make demo` and `make test` install, for pip and uv alike. Written by `make lock`, after the whole suite passed with it
# on Python {python}, {platform}; lines for other Pythons and systems are resolved, not run. torch picks its GPU packages.
"""
FOR_A_GPU = re.compile(r"(nvidia|cuda|triton)\b")


def uv():
    """uv's command: the one that is installed, or one in an environment of its own."""
    if shutil.which("uv"):
        return ["uv"]
    if find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    tools = FOLDER / "tools"
    python = tools / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", tools], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    return [python, "-m", "uv"]


def resolve(which):
    """Constraints, a line for each package: the newest for every Python and system, or the oldest for this one."""
    lowest = re.search(r'requires-python = ">=([\d.]+)', (ROOT / "pyproject.toml").read_text()).group(1)
    how = {
        "newest": ["--universal", "--python-version", lowest],
        "oldest": ["--resolution", "lowest-direct", "--python", sys.executable],
    }[which]
    plain = ["--no-header", "--no-annotate", "--quiet", "--extra", "dev"]
    words = [*uv(), "pip", "compile", "pyproject.toml", *plain, *how]
    found = subprocess.run(words, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [line for line in found if not FOR_A_GPU.match(line) and "== 'emscripten'" not in line]


def versions(lines):
    """Version by package, for this Python and system."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {one.name: str(one.specifier).removeprefix("==") for one in wanted if one.marker is None or one.marker.evaluate()}


def differences(locked, tried):
    """A sentence for each package whose version differs."""
    for name in sorted(locked.keys() | tried.keys()):
        if locked.get(name) != tried.get(name):
            yield f"{name} {locked.get(name, 'absent')} -> {tried.get(name, 'absent')}"


def run_suite(which, target):
    """Fills the environment and runs the Makefile's target in it, shown as it goes: exit code, and the lines that tell."""
    shutil.rmtree(FOLDER / which, ignore_errors=True)
    words = ["make", target, f"VENV={FOLDER / which}", f"CONSTRAINTS={FOLDER / which}.txt", f"PYTHON={sys.executable}"]
    telling = []
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            if re.match(r"(FAILED|ERROR) |=* ?\d+ (passed|failed|error)", line):
                telling.append(line.strip("= \n"))
    return process.returncode, telling


def main(words=None):
    """The exit code; newest writes the lock when it is 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["newest", "oldest"])
    parser.add_argument("--target", default="prove", help="of the Makefile: prove is everything, test leaves slow proofs out")
    given = parser.parse_args(words)
    if given.which == "newest" and given.target != "prove":
        parser.error("the lock is written after the whole suite; leave --target out")
    lines = resolve(given.which)
    text = HEADER.format(python=sys.version.split()[0], platform=sys.platform) + "\n".join(lines) + "\n"
    locked = LOCK.read_text().splitlines() if LOCK.exists() else []
    if given.which == "newest" and lines == [line for line in locked if not line.startswith("#")]:
        print(f"{LOCK.name} holds the newest versions already")
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{given.which}.txt").write_text(text)
    code, telling = run_suite(given.which, given.target)
    changed = list(differences(versions(locked), versions(lines)))
    print(f"\nThe {given.which} versions, beside the lock:", *changed or ["none differs"], sep="\n  ")
    print("The suite:", *telling or ["did not start"], sep="\n  ")
    if code == 0 and given.which == "newest":
        shutil.copy(FOLDER / "newest.txt", LOCK)
        print(f"Written: {LOCK}")
    elif code:
        print(f"It did not pass. To look into it: {FOLDER / given.which} has these versions installed.")
    return code


if __name__ == "__main__":
    sys.exit(main())
