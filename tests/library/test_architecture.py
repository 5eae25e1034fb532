"""The house: imports go down only, functions fit on a screen, no drawer for odds and ends."""

import ast
from pathlib import Path

import pytest

import rlhf_lib

ROOT = Path(rlhf_lib.__file__).parent
ORDER = [  # floor by floor, from the ground up; a module may import what stands before it
    ["args"],
    ["files", "finite", "machine", "parallel", "signals", "terminal"],
    ["recipes", "sharding"],
    ["engine"],
    ["layout", "objectives", "preferences", "supervised"],
    ["surrogates"],
    ["advantages"],
    ["algorithms"],
    ["memory"],
    ["correction"],
    ["oracle"],
    ["lora"],
    ["models"],
    ["rollouts"],
    ["samplers"],
    ["rewards"],
    ["selection"],
    ["tasks"],
    ["evaluate"],
    ["optim"],
    ["runs"],
    ["trainers"],
    ["compare"],
    ["course"],
    ["cli"],
    ["__main__"],
]
HEIGHT = {name: height for height, names in enumerate(ORDER) for name in names}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def unit(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree):
    """Names of rlhf_lib's units that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rlhf_lib":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rlhf_lib."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
class TestEveryFile:
    def test_imports_go_down(self, path):
        own = unit(path)
        for name in imported(ast.parse(path.read_text())):
            assert name == own or HEIGHT[name] < HEIGHT[own], f"{own} imports {name}, which is not below it"

    def test_functions_fit_on_a_screen(self, path):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{node.name} has {node.end_lineno - node.lineno + 1} lines"

    def test_named_for_its_subject(self, path):
        assert path.stem not in ("utils", "helpers", "common", "misc")
        assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_unit_has_its_floor():
    assert {unit(path) for path in FILES} == set(HEIGHT)


def test_the_ground_floor_knows_no_torch():
    for file in (ROOT / "args").glob("*.py"):
        assert "import torch" not in file.read_text()


@pytest.mark.parametrize(("file", "count"), [("ppo.py", 3), ("grpo.py", 2), ("reft.py", 1), ("policy_gradient.py", 3)])
def test_the_algorithm_is_short(file, count):
    """The loop's two verbs and what makes advantages are what a reader came for: under 40 lines each."""
    found = [
        node
        for node in ast.walk(ast.parse((ROOT / "trainers" / file).read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name in ("rollout_phase", "compute_token_advantages", "compute_rlhf_objective")
    ]
    assert len(found) == count
    assert all(node.end_lineno - node.lineno < 40 for node in found)


def test_ppo_reads_no_field_that_only_grpo_has():
    from dataclasses import fields

    from rlhf_lib.args import GrpoArgs, RLHFArgs

    only = {f.name for f in fields(GrpoArgs)} - {f.name for f in fields(RLHFArgs)}
    tree = ast.parse((ROOT / "trainers" / "ppo.py").read_text())
    trainer = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "RLHFTrainer")
    read = {node.attr for node in ast.walk(trainer) if isinstance(node, ast.Attribute)}
    assert not read & only


def test_arguments_are_never_assigned_to():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            for target in getattr(node, "targets", []) if isinstance(node, ast.Assign) else []:
                if isinstance(target, ast.Attribute):
                    assert ast.unparse(target.value) not in ("args", "self.args"), f"{path.name}:{node.lineno}"


def test_importing_the_package_is_light():
    import subprocess
    import sys

    code = "import sys, rlhf_lib, rlhf_lib.cli; assert not {'torch', 'transformers', 'transformer_lens'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_resolve():
    assert all(getattr(rlhf_lib, name) is not None for name in rlhf_lib.__all__)
