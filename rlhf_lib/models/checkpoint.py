"""What a model's directory or hub name holds, read strictly: configuration, weights, tokenizer. Each fault is one sentence.

transformers fills weights that a checkpoint lacks with random numbers and passes over those that the model has no place for,
with no more than a warning; here both are errors. Code that a model brings along is never run, and nobody is asked whether it
may be.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from rlhf_lib.args import InputError, require

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
)
HARMLESS = re.compile(  # names in checkpoints that no logit depends on: constants that were saved once, and heads of other uses
    r"(^|\.)(rotary_emb\.inv_freq|position_ids|(attn|attention)\.(masked_)?bias)$|^(v_head|score|classifier)\."
)
SHOWN = 3  # names in an error
CODE_OF_ITS_OWN = (
    "needs code that it brings along, which is never run here; use a model of an architecture that transformers has itself "
    "(such as Llama, Qwen, Gemma, Mistral or GPT-2), or convert it to one"
)


def reason(error: BaseException) -> str:
    """What an error says, on one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no more is known"]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    known = isinstance(error, (OSError, ValueError)) and not isinstance(error, UnicodeError)
    return (text if known else f"{type(error).__name__}: {text}")[:200]


@contextmanager
def sound(what: str, remedy: str) -> Iterator[None]:
    """Whatever goes wrong inside is an InputError, `what` cannot be loaded, with the reason and a remedy.

    What damaged files lead to has no end of types. Lack of memory is no damage, and passes through.
    """
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise InputError(f"{what} {CODE_OF_ITS_OWN}") from None
        raise InputError(f"{what} cannot be loaded ({reason(error)}); {remedy}") from error


def read_settings(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file of settings, empty without the file; transformers would take some broken ones for missing."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{what}: {file} cannot be read as JSON ({reason(error)}); get the model again") from None
    require(isinstance(found, dict), f"{what}: {file} must hold a JSON object, not {found!r:.40}; get the model again")
    return found


def read_config(name: str, what: str, **changes: Any) -> Any:
    """The model's configuration, with sizes that a model can have; `what` names the argument in errors."""
    for file in ("config.json", "generation_config.json", "tokenizer_config.json"):
        found = read_settings(Path(name) / file, what)
        if file == "config.json":
            require_sizes(found, what)
    is_local = Path(name).is_dir()
    remedy = "correct its config.json, or get the model again" if is_local else "check the spelling and the connection"
    whence = (
        "" if is_local else ", which is neither bundled (pocket), nor a local directory, nor to be had from Hugging Face's hub,"
    )
    with sound(f"{what}{whence}", remedy):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **changes)
    for kind in ("attn_implementation", "experts_implementation"):
        asked = str(getattr(config, f"_{kind}", None))
        require(
            "/" not in asked,
            f"{what}: config.json has {kind}={asked!r}, a kernel from the hub, which is code and never run here; take that "
            "line out of it",
        )
    text = config.get_text_config()
    require_sizes({size: vars(text).get(text.attribute_map.get(size, size)) for size in SIZES}, what)
    return config


def require_sizes(settings: dict[str, Any], what: str) -> None:
    """Every size is a whole number above 0, and the query heads share the key and value heads evenly."""
    for name in SIZES:
        size = settings.get(name)
        if isinstance(size, (int, float)):
            fits = isinstance(size, int) and size > 0
            require(fits, f"{what}: config.json has {name}={size}, which must be a whole number above 0; get the model again")
    heads, shared = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int):
        require(
            heads % shared == 0,
            f"{what}: config.json has num_attention_heads={heads}, not a multiple of num_key_value_heads={shared}; get the "
            "model again",
        )


def read_model(kind: Any, name: str, what: str, config: Any, *, new_head: bool = False, **options: Any) -> tuple[Any, set[str]]:
    """A model with all of its weights from the checkpoint, and the names of those that are new: none, but for `new_head`.

    Args:
        kind: AutoModelForCausalLM, or another that has from_pretrained.
        name: directory, or name on the hub.
        what: names the argument in errors.
        new_head: what is not the trunk's may be new, and the checkpoint may have another head in its place.

    Raises:
        InputError: weights that cannot be read, are missing, have another shape, or that the model has no place for.
    """
    with sound(what, "its weights are missing or damaged, or config.json is not theirs; get the model again"):
        model, told = kind.from_pretrained(
            name, config=config, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    missing, unexpected = set(told["missing_keys"]), set(told["unexpected_keys"])
    unexpected = {key for key in unexpected if not HARMLESS.search(key)}
    head = set()
    if new_head:
        head = {key for key in missing if is_head(key, model)}
        unexpected = {key for key in unexpected if not is_head(key, model)}
    require_all(what, missing - head, unexpected, told["mismatched_keys"])
    return model, head


def is_head(key: str, model: Any) -> bool:
    """Whether a weight is of what stands on the trunk; poolers of encoders are."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def require_all(
    what: str, missing: Iterable[str], unexpected: Iterable[str], mismatched: Iterable[tuple[str, Any, Any]]
) -> None:
    """Raise unless a checkpoint has the model's weights, all of them, in their shapes, and no others.

    `mismatched` are triples (name, shape in the checkpoint, shape that the configuration asks for).
    """
    others = [f"{key} {list(found)}, not {list(asked)}" for key, found, asked in mismatched]
    faults = [
        f"{len(names)} {kind} ({listed(names)})"
        for kind, names in (
            ("missing", sorted(missing)),
            ("unexpected", sorted(unexpected)),
            ("of another shape", sorted(others)),
        )
        if names
    ]
    require(
        not faults,
        f"{what} has weights that do not fit its configuration: {'; '.join(faults)}; get the model again, save it anew with "
        "save_pretrained, or correct config.json",
    )


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def read_tokenizer(name: str, what: str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, which has at least a token."""
    with sound(
        f"the tokenizer of {what}", "its files (tokenizer.json, tokenizer_config.json) are missing or damaged, get them again"
    ):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        if not tokenizer.get_vocab():
            raise ValueError("it has no vocabulary")
    return tokenizer


def require_fitting_tokens(tokenizer: PreTrainedTokenizerBase, rows: int, what: str) -> None:
    """Every token that text, padding or an end can become is a row of the embedding, which has `rows`.

    Placeholders of pictures and sounds may lie outside: a text model can share its tokenizer with one that sees (Gemma 3).
    """
    for role in ("pad", "bos", "eos"):
        token, number = getattr(tokenizer, f"{role}_token"), getattr(tokenizer, f"{role}_token_id")
        require(
            number is None or number < rows,
            f"{what}: the tokenizer's {role}_token {token!r} has id {number}, but the embedding has {rows} rows; set "
            f"{role}_token in tokenizer_config.json to a token below that (the end token serves as padding), or resize the "
            "embedding (model.resize_token_embeddings)",
        )
    others = {getattr(tokenizer, f"{kind}_token", None) for kind in ("image", "audio", "video")}
    outside = sorted(
        (number, token) for token, number in tokenizer.get_vocab().items() if number >= rows and token not in others
    )
    require(
        not outside,
        f"{what}: {len(outside)} tokens of the tokenizer ({listed([f'{token!r} {number}' for number, token in outside])}) are "
        f"outside the embedding, which has {rows} rows; give the tokenizer that belongs to the model, or resize the embedding "
        "(model.resize_token_embeddings) and train the new rows",
    )


def require_end_ids(found: Any, rows: int, what: str) -> None:
    """The end of sequence in generation_config.json is a token of the model, a list of such, or none."""
    ids = found if isinstance(found, (list, tuple)) else [found]
    fits = all(i is None or (type(i) is int and 0 <= i < rows) for i in ids)
    require(
        fits,
        f"{what}: generation_config.json has eos_token_id={found!r}, which must be a token id from 0 to {rows - 1} or a "
        "list of them; correct it, or delete the file",
    )
