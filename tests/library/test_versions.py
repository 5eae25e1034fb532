"""The lock fits the ranges, the ranges end where testing ended, and no lock is written after a failure."""

import importlib.util
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings tomli
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(text) for text in PROJECT["dependencies"] + EXTRAS["dev"]]
BREAKS_IN_MINORS = ("torch", "transformers", "transformer_lens", "trl")  # as do all below 1.0


@pytest.fixture
def versions():
    spec = importlib.util.spec_from_file_location("versions", ROOT / "tests" / "versions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bound(requirement, operator):
    (found,) = [Version(one.version) for one in requirement.specifier if one.operator == operator]
    return found


def lines_of_the_lock():
    return [line for line in (ROOT / "tests" / "constraints.txt").read_text().splitlines() if not line.startswith("#")]


def locked():
    """The newest locked version of each package, over Pythons and systems."""
    found = {}
    for line in lines_of_the_lock():
        requirement = Requirement(line)
        name, version = canonicalize_name(requirement.name), bound(requirement, "==")
        found[name] = max(found.get(name, version), version)
    return found


def test_the_lock_names_no_place_and_no_build():
    """Every line is a version and a marker, so that pip and uv take it, on any index and for any system."""
    for line in lines_of_the_lock():
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [^;]+)?", line), line


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_the_lock_holds_every_dependency_within_its_range(requirement):
    assert locked()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize(
    "requirement", sorted({*DIRECT, *(Requirement(text) for group in EXTRAS.values() for text in group)}, key=str), ids=str
)
def test_a_range_ends_before_the_first_version_that_was_not_tested(requirement):
    newest = locked().get(canonicalize_name(requirement.name))
    cap, minors = bound(requirement, "<"), requirement.name in BREAKS_IN_MINORS
    if newest is None:  # no test installs it: that it ends at all
        assert cap
    elif minors or newest.major == 0:
        assert cap.release == (newest.major, newest.minor + 1)
    else:
        assert cap.release == (newest.major + 1,)


def test_only_lines_for_this_system_are_compared(versions):
    before = versions.versions(["# of", "a==1.0", "b==2.0 ; python_version < '3'", "b==3.0 ; python_version >= '3'"])
    assert before == {"a": "1.0", "b": "3.0"}
    assert list(versions.differences(before, {"a": "1.1", "c": "1"})) == ["a 1.0 -> 1.1", "b 3.0 -> absent", "c absent -> 1"]


@pytest.mark.parametrize("code", [0, 1])
def test_the_lock_is_written_when_everything_passed(code, versions, tmp_path, monkeypatch, capsys):
    lock = tmp_path / "constraints.txt"
    lock.write_text("# old\na==1.0\n")
    monkeypatch.setattr(versions, "LOCK", lock)
    monkeypatch.setattr(versions, "FOLDER", tmp_path)
    monkeypatch.setattr(versions, "resolve", lambda which: ["a==1.1", "c==1.0"])
    told = ["FAILED tests/library/test_x.py::test_y", "1 failed, 2 passed in 3s"]
    monkeypatch.setattr(versions, "run_suite", lambda which, target: (code, told))
    assert versions.main(["newest"]) == code
    printed = capsys.readouterr().out
    assert all(line in printed for line in ["a 1.0 -> 1.1", "c absent -> 1.0", *told])
    assert ("a==1.1" in lock.read_text()) == (code == 0)
    assert versions.main(["newest"]) == code
    assert ("holds the newest versions already" in capsys.readouterr().out) == (code == 0)


def test_no_lock_from_half_a_suite(versions):
    with pytest.raises(SystemExit):
        versions.main(["newest", "--target", "test"])
