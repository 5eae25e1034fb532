"""Every field of every class of arguments: type, choices and range are checked alike, wherever values come from."""

import json
import math
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Annotated, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib import args as arguments
from rlhf_lib.args import FAMILY, GrpoArgs, InputError, RLHFArgs, from_file, from_json, to_json
from rlhf_lib.args.types import Between, NotEmpty, annotations_of, fitted

KINDS = [found for found in (getattr(arguments, name) for name in arguments.__all__) if is_dataclass(found)]
KINDS += [FAMILY["reinforce"], FAMILY["dapo"]]
NEEDED = {arguments.MergeArgs: {"adapter": "a", "output_dir": "b"}}
ZERO_IS_ALLOWED = {  # what 0 means in each
    "seed": "a seed like any other",
    "few_shot": "no examples",
    "eval_problems": "nothing is measured",
    "eval_every": "never",
    "log_samples_every": "never",
    "warmup_steps": "no warm-up",
    "warmup_epochs": "no warm-up",
    "warmup_share": "no warm-up",
    "critic_phases": "none",
    "self_samples": "none",
    "refill_draws": "none",
    "overlong_share": "no penalty",
    "weight_decay": "none",
    "vf_coef": "the term is off",
    "ent_coef": "the term is off",
    "kl_coef": "the term is off",
    "kl_reward_coef": "the term is off",
    "centring_coef": "the term is off",
    "margin": "none",
    "question_weight": "questions are not learned",
    "clip_coef": "no gain beyond the ratio 1",
    "clip_coef_high": "no gain above the ratio 1",
    "adam_beta1": "no running mean",
    "adam_beta2": "no running mean",
    "final_scale": "the last phase learns nothing",
    "gamma": "no token counts but the last",
    "gae_lambda": "one-step TD",
    "equation_share": "no equations",
    "early_part": "none",
    "early_reasoning_share": "none",
    "late_reasoning_share": "none",
    "target": "reached at once",
    "save_model_every": "none is kept",
}
ZERO_IS_ALLOWED_IN = {
    ("EvalArgs", "samples"),
    ("EvalArgs", "temperature"),
    ("ModelArgs", "temperature"),
    ("SampleArgs", "temperature"),
}
NEVER = (math.nan, math.inf, -math.inf, -1, -0.5, 1e308, 10**400, 2**64, True, "3", [1], {"a": 1})


def plain(kind):
    """The type in an annotation, without its rules and None."""
    if get_origin(kind) is Annotated:
        return plain(get_args(kind)[0])
    parts = [part for part in get_args(kind) if part is not type(None)]
    return plain(parts[0]) if len(parts) == 1 and get_origin(kind) not in (Literal, tuple) else kind


def numbers(kind):
    return [f for f in fields(kind) if plain(annotations_of(kind)[f.name]) in (int, float)]


def refusal(kind, name, value):
    """The message that a value is refused with, from Python and as JSON; None where it is taken."""
    given_values = {**NEEDED.get(kind, {}), name: value}
    from_python = said(lambda: kind(**given_values))
    if issubclass(kind, arguments.RunArgs):  # which a file can hold
        from_data = said(lambda: from_json(kind, json.dumps(given_values), "some/args.json"))
        assert from_data == (None if from_python is None else f"some/args.json: {from_python}")
    return from_python


def said(call):
    """The message of the InputError that a call raises, or None."""
    try:
        call()
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
class TestEveryClass:
    def test_numbers_have_a_range_and_texts_a_rule(self, kind):
        def rules(annotation):
            if get_origin(annotation) is Annotated:
                return [rule for rule in get_args(annotation)[1:] if isinstance(rule, (Between, NotEmpty))]
            return [rule for part in get_args(annotation) for rule in rules(part)]

        for f in numbers(kind):
            assert rules(annotations_of(kind)[f.name]), f"{f.name} has no range"

    def test_numbers_that_mean_nothing_are_refused(self, kind):
        for f in numbers(kind):
            for value in NEVER:
                message = refusal(kind, f.name, value)
                assert message is not None, f"{f.name}={value!r} is taken"
                assert message.startswith(f"{f.name}=")
                assert " must " in message or "would change nothing" in message
                assert "\n" not in message

    def test_zero_is_taken_where_it_means_something(self, kind):
        for f in numbers(kind):
            allowed = f.name in ZERO_IS_ALLOWED or (kind.__name__, f.name) in ZERO_IS_ALLOWED_IN
            is_read = f.name not in kind.unread or f.default == 0
            assert (refusal(kind, f.name, 0) is None) == (allowed and is_read), f.name

    def test_whole_numbers_are_whole(self, kind):
        for f in numbers(kind):
            value = f.default if f.default not in (None, MISSING) else 1
            if plain(annotations_of(kind)[f.name]) is int:
                assert "whole number" in refusal(kind, f.name, float(value))
                assert "whole number" in refusal(kind, f.name, value + 0.5)
            elif float(value).is_integer() and f.name not in kind.unread:
                args = kind(**NEEDED.get(kind, {}), **{f.name: int(value)})
                assert type(getattr(args, f.name)) is float

    def test_choices_flags_and_texts(self, kind):
        for f in fields(kind):
            annotation = plain(annotations_of(kind)[f.name])
            if get_origin(annotation) is Literal:
                for value in (get_args(annotation)[0].title(), "nosuch", "", 0, True, [get_args(annotation)[0]]):
                    assert "must be '" in refusal(kind, f.name, value)
            elif annotation is bool:
                for value in ("false", "no", 0, 1, None, []):
                    assert "true or false" in refusal(kind, f.name, value)
            elif annotation is str:
                for value in (3, True, ["a"], "half \ud800", "nul \0"):
                    assert f"{f.name}=" in refusal(kind, f.name, value)
            elif get_origin(annotation) is tuple:
                for value in ("correctness", 3, None, [3], ["half \ud800"], {"a": "b"}):
                    assert f"{f.name}=" in refusal(kind, f.name, value)

    def test_none_is_taken_where_it_is_meant(self, kind):
        for f in fields(kind):
            annotation = annotations_of(kind)[f.name]
            union = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
            if f.default is not None and type(None) not in get_args(union):
                assert f"{f.name}=None" in refusal(kind, f.name, None)

    def test_defaults_fit(self, kind):
        args = kind(**NEEDED.get(kind, {}))
        assert replace(args) == args
        with pytest.raises(InputError):
            replace(args, **{fields(kind)[0].name: object()})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NEAR = st.sampled_from([0, 1, 2, 8, 0.5, 1.0, "adamw", "k3", "pocket", "vllm", True, False, None, [], ["attn.q"], ["a=b"]])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_json_is_taken_as_it_is_or_refused_in_one_sentence(data):
    kind = data.draw(st.sampled_from([kind for kind in KINDS if issubclass(kind, arguments.RunArgs)]))
    names = data.draw(st.lists(st.sampled_from([f.name for f in fields(kind) if f.name != "reward_fn"]), max_size=3))
    values = {name: data.draw(JSON | NEAR) for name in names}
    text = json.dumps(values)
    message = said(lambda: from_json(kind, text, "some/args.json"))
    if message is not None:
        assert message.startswith("some/args.json")
        assert "\n" not in message
        return
    args = from_json(kind, text)
    for name, value in values.items():
        assert fitted(getattr(args, name), annotations_of(kind)[name]) == getattr(args, name)
        assert getattr(args, name) == (tuple(value) if isinstance(value, list) else value)
        assert isinstance(getattr(args, name), bool) == isinstance(value, bool)
    assert from_json(kind, to_json(args)) == args


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1]", r"holds \[1\] and no JSON object"),
        (b"null", "holds None and no JSON object"),
        (b"3", "holds 3 and no JSON object"),
        (b'"' + b"a" * 1000 + b'"', "no JSON object"),
        (b"", "is not JSON"),
        (b'{"seed": 1', "is not JSON"),
        (b'{"seed": 1, "seed": 2}', "'seed' stands in it twice"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is not JSON|seed="),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        ('{"seed": 1}'.encode("utf-16"), "is not UTF-8 text"),
        (b'{"prefix": "\xff"}', "is not UTF-8 text .* at byte 12"),
        (b'{"nonsense": 1}', "has fields that RLHFArgs lacks: nonsense"),
        (b'{"seed": NaN}', "seed=nan must be a whole number"),
        (b'{"base_lr": 1e999}', "base_lr=inf must be at most"),
        (b'{"dtype": "bf16"}', "dtype='bf16' must be 'float32' or 'bfloat16' or '4bit'"),
    ],
)
def test_files_of_arguments(content, reason, tmp_path):
    file = tmp_path / "args.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=reason) as error:
        from_file(RLHFArgs, file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(file))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    (tmp_path / "args.json").write_text('{"seed": 7}', encoding="utf-8-sig")
    assert from_file(RLHFArgs, tmp_path / "args.json").seed == 7


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        from_file(RLHFArgs, tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot be read"):
        from_file(RLHFArgs, tmp_path)


def test_a_students_fields_are_checked_too():
    @dataclass
    class Mine(GrpoArgs):
        extra: int = 7
        share: Annotated[float, Between(0, 1)] = 0.5
        pair: tuple[str, int] = ("a", 1)
        anything: object = None

    assert Mine(extra=8, pair=["b", 2]).pair == ("b", 2)
    for wrong in ({"extra": "8"}, {"share": 2}, {"pair": ("a",)}, {"pair": ("a", "b")}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Mine(**wrong)

    @dataclass
    class Reading(FAMILY["reinforce"]):
        unread = {}  # noqa: RUF012

    assert Reading(clip_coef=0.5).clip_coef == 0.5


def test_a_refusal_says_value_rule_and_remedy():
    with pytest.raises(InputError) as error:
        FAMILY["reinforce"](clip_coef=0.5)
    assert "clip_coef=0.5" in str(error.value)
    assert "reinforce clips nothing" in str(error.value)
    assert "leave it out" in str(error.value)
    with pytest.raises(
        InputError, match=r"lr_decay='Cosine' must be 'linear' or 'cosine'; leave it out for the default 'linear'"
    ):
        RLHFArgs(lr_decay="Cosine")
