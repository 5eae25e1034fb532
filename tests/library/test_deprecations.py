"""The suite fails on deprecated calls of ours, wherever the warning is located, and on nobody else's."""

import warnings
from types import ModuleType

import pytest
import torch
from transformers.utils.deprecation import deprecate_kwarg

from .deprecations import ROOT, is_ours


@pytest.fixture
def deprecated_calls(deprecated_calls):
    """What the suite holds against this test; taken back at its end, since the calls are planted."""
    yield deprecated_calls
    deprecated_calls.clear()


class Renamed(torch.nn.Module):
    @deprecate_kwarg("past_key_values", new_name="cache", version="99.0.0")
    def forward(self, x, cache=None):
        return x


class Old:
    @property
    def name(self):
        warnings.warn("name is deprecated", FutureWarning)  # noqa: B028  located at itself, as in libraries
        return 1


def elsewhere(code, **given):
    """A function `call` of a library that is not ours."""
    module = ModuleType("library")
    vars(module).update(given)
    exec(compile(code, "/site-packages/library.py", "exec"), vars(module))
    return module.call


PLANTED = {
    "direct": lambda: warnings.warn("old", FutureWarning, stacklevel=1),
    "through torch's call of a module": lambda: Renamed()(torch.ones(1), past_key_values=1),
    "through no_grad": lambda: torch.no_grad()(Renamed())(torch.ones(1), past_key_values=1),
    "a property that warns about itself": lambda: Old().name,
    "torch's own": lambda: torch.cuda.amp.autocast(enabled=False),
}


@pytest.mark.parametrize("call", PLANTED.values(), ids=PLANTED)
def test_a_planted_call_is_found(call, deprecated_calls):
    call()
    assert len(deprecated_calls) == 1
    assert deprecated_calls[0].startswith(__file__)


def test_every_one_is_found_though_the_place_is_the_same(deprecated_calls):
    """warnings shows a text once for each place, and torch's call of modules is one place for all."""
    for call in [lambda: Renamed()(torch.ones(1), past_key_values=1)] * 3:
        call()
    assert len(deprecated_calls) == 3


def test_calls_that_a_library_makes_are_not_ours(deprecated_calls):
    call = elsewhere("def call():\n    return model(1, past_key_values=1)", model=Renamed())
    call()
    assert not deprecated_calls


@pytest.mark.parametrize(
    ("file", "ours"),
    [
        (str(ROOT / "rlhf_lib" / "rollouts.py"), True),
        ("exercises/grpo.py", True),
        (str(ROOT / ".venv" / "lib" / "python3.11" / "site-packages" / "rlhf_lib" / "a.py"), False),
        ("/usr/lib/python3/site-packages/torch/nn/modules/module.py", False),
        ("<string>", False),
    ],
)
def test_whose_file(file, ours):
    assert is_ours(file) == ours
