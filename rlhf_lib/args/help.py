"""What --help prints: an option a line, in groups as a reader thinks of them; --help OPTION prints all there is about one.

Meanings are the fields' own docstrings, read off the classes' source; values are those that the command would start from.
"""

import ast
import difflib
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from rlhf_lib.args.code import IN_PYTHON_ONLY, FromWords, saved_name
from rlhf_lib.args.rules import InputError
from rlhf_lib.args.types import annotations_of

GROUPS = {
    heading: tuple(names.split())
    for heading, names in {
        "how much": "total_phases epochs batch_size num_minibatches batches_per_learning_phase keep_prompts_together budget",
        "objective": "clip_coef clip_coef_high reduction kl_coef kl_estimator ent_coef reference",
        "critic": "vf_coef clip_value gamma gae_lambda head_lr critic_phases",
        "optimiser": "base_lr lr warmup_steps warmup_share final_scale lr_decay optimizer adam_beta1 adam_beta2 weight_decay "
        "max_grad_norm",
        "problems": "task data columns skip_bad_rows prompt_style system_prompt template_args few_shot prefix",
        "rewards": "rewards reward_model reward_fn",
        "model": "base_model adapter run which lora_rank lora_alpha lora_maps dtype prepend_bos",
        "sampling": "gen_len temperature top_k top_p sampler sampler_memory sampler_url sampler_directory sampler_timeout "
        "correct_sampler sampler_correction sampler_cap",
        "memory and processes": "micro_batch_size checkpoint_activations autocast shard",
        "measuring": "eval_problems eval_every keep_best log_samples_every",
        "the run and its files": "output_dir resume save_every save_model_every seed device",
        "trackers": "tracker use_wandb wandb_project_name wandb_entity",
    }.items()
}
"""Options that several commands share, by group; a command's own come first."""
WIDEST, NARROWEST, LONGEST_VALUE = 120, 80, 10
END = re.compile(r"(?<!al)(?<!Dr)\. |; ")  # of a sentence or clause; "et al." and "Dr. GRPO" are none
WORDS = {int: "N", float: "X", str: "TEXT"}


def overview(kind: type, prog: str, start: dict[str, Any]) -> str:
    """An option a line, by group, with the value that it starts from and the beginning of what it means."""
    shown = {field.name: field for field in fields_of_words(kind)}
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {"its own": [name for name in shown if name not in grouped], **GROUPS}
    lines = [f"usage: {prog} [OPTIONS]    {prog} --help OPTION says all about one", "", kind.__doc__.splitlines()[0]]
    option, value = max(map(len, map(flag, shown))), LONGEST_VALUE
    room = min(WIDEST, max(NARROWEST, shutil.get_terminal_size((WIDEST, 24)).columns)) - option - value - 6
    for heading, names in groups.items():
        lines += ["", f"{heading}:"] if any(name in shown for name in names) else []
        for name in (name for name in names if name in shown):
            meaning = beginning(meanings_of(kind).get(name, ""), room)
            lines.append(f"  {flag(name):{option}}  {text_of(start_of(shown[name], start), value):{value}}  {meaning}".rstrip())
    return "\n".join(lines)


def all_about(kind: type, prog: str, start: dict[str, Any], asked: str) -> str:
    """One option: what it may be, what it starts from, and what it means.

    Raises:
        InputError: there is none of that name.
    """
    name = asked.lstrip("-").replace("-", "_")
    shown = {field.name: field for field in fields_of_words(kind)}
    if name not in shown:
        reason = {**getattr(kind, "elsewhere", {}), **kind.unread}.get(name)
        near = difflib.get_close_matches(name, shown, 2)
        means = f"did you mean {' or '.join(map(flag, near))}?" if near else f"{prog} --help lists all"
        raise InputError(f"--help {asked}: {flag(name)} is not an option here{f': {reason}' if reason else ''}; {means}")
    annotation, field = annotations_of(kind).get(name, str), shown[name]
    usage = f"{flag(name)}, --no-{flag(name)[2:]}" if annotation is bool else f"{flag(name)} {values_of(annotation)}"
    value = text_of(start_of(field, start), 1000)
    starts = value if value == "required" else f"starts from {value}"
    meaning = textwrap.fill(meanings_of(kind).get(name, ""), WIDEST - 4, initial_indent="    ", subsequent_indent="    ")
    return f"{usage}    ({starts})\n{meaning}"


def fields_of_words(kind: type) -> Iterator[Field]:
    """The fields that words can set and something reads."""
    annotations = annotations_of(kind)
    for field in fields(kind):
        if IN_PYTHON_ONLY not in get_args(annotations.get(field.name)) and field.name not in kind.unread:
            yield field


def flag(name: str) -> str:
    """A field's option."""
    return f"--{name.replace('_', '-')}"


def start_of(field: Field, start: dict[str, Any]) -> Any:
    """What a field is where it is left out; MISSING where it must be given."""
    return start.get(field.name, field.default)


def text_of(value: Any, longest: int) -> str:
    """A value as a word of the command line, cut where it is long; a hyphen for none."""
    if value is MISSING:
        return "required"
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        text = " ".join(text_of(part, 1000) for part in value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value) if isinstance(value, (int, str)) else saved_name(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def values_of(annotation: Any) -> str:
    """What an option's value looks like."""
    own = next((part for part in get_args(annotation) if isinstance(part, FromWords)), None)
    if own is not None:
        return own.looks
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values_of(parts[0])
    if origin is Literal:
        return "|".join(map(str, parts))
    if origin in (Union, UnionType):
        return "|".join(
            [*(values_of(part) for part in parts if part is not NoneType), *(["None"] if NoneType in parts else [])]
        )
    return f"[{values_of(parts[0])} ...]" if origin is tuple else WORDS.get(annotation, "TEXT")


def beginning(text: str, room: int) -> str:
    """As much of a text as fits on a line, up to the end of a sentence or clause where there is one."""
    if len(text) <= room:
        return text
    ends = [found.start() for found in END.finditer(text) if found.start() < room]
    ends = [end for end in ends if text.count("(", 0, end) == text.count(")", 0, end)]
    if ends:
        return f"{text[: ends[-1]]}."
    return f"{text[: room - 1].rsplit(' ', 1)[0].rstrip(',:;')}…"


@cache
def meanings_of(kind: type) -> dict[str, str]:
    """The docstrings of a class's fields, on one line each; of an inherited field that of its base, unless it has its own."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):  # of a class that was made without source, or in C
            continue
        body = ast.parse(source).body[0].body
        for field, told in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Expr) and isinstance(told.value, ast.Constant):
                found[field.target.id] = " ".join(str(told.value.value).split())
    return found
