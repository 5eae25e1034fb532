"""The model card: what the bundled model can do, measured, and written beside its weights."""

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from rlhf_lib.args import PretrainArgs
from rlhf_lib.evaluate import Evaluation, evaluate
from rlhf_lib.files import write_atomically
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.tasks import PocketTask
from rlhf_lib.tasks.pocket_text import STYLES

GEN_LEN = 48
PROMPTS = {  # what is measured: worked examples before the question, and their style
    "zero": (0, None),
    "reasoning": (3, "reasoning"),
    "bare": (3, "bare"),
    "one_reasoning": (1, "reasoning"),
}
CARD_PROBLEMS = 500

TEXT = """---
license: mit
---
# pocket

A {parameters:,}-parameter Llama ({layers} layers, width {width}, {heads} heads, {vocab} tokens) pretrained on text that
`rlhf_lib/tasks/pocket_text.py` generates: word problems of one to four steps with exact answers, in documents of one to three
question-answer pairs in one of three styles (reasoning in tags, a bare tagged answer, a plain sentence), and documents of bare
equations. It exists so that everything in this course runs on a laptop: it answers in mixed styles, is right when it reasons,
and seldom does.

Test problems are disjoint from training by their program (the numbers and operations); single equations such as 3+4=7 are
shared, since they are what the model is to know.

## How it was made

`rlhf pretrain` makes it from nothing: {recipe}. The run that made these weights took {minutes:.0f} minutes on 2 CPU cores.

## Measured

{count} test problems, at most {gen_len} tokens, 95% intervals; `card.json` has the numbers and
`pytest tests/library/test_bundled_model.py` measures them again. `rlhf eval` (with `--few-shot 3`, `--style bare`,
`--temperature 0`) prints any one of them.

| prompt | greedy | temperature 1 |
|---|---|---|
| zero-shot | {zero_greedy} | {zero_sampled} |
| 3-shot with reasoning | {reasoning_greedy} | {reasoning_sampled} |
| 3-shot with bare answers | {bare_greedy} | {bare_sampled} |
| 1-shot with reasoning | {one_reasoning_greedy} | {one_reasoning_sampled} |

A prompt with three examples is longer than any document that the model was trained on (at most three question-answer pairs),
which costs it much of its skill; with one or two examples of reasoning it is nearly always right.

Zero-shot at temperature 1, by the style that the model chose:

| style | share of answers | accuracy |
|---|---|---|
{styles}
"""


def measure(directory: str | os.PathLike, count: int = CARD_PROBLEMS, device: str = "auto") -> dict[str, Any]:
    """All figures of the card: accuracies by prompt and temperature, and share and accuracy of each style."""
    model, task = BridgedTransformer(directory, device=device), PocketTask()

    def judged(temperature: float, few_shot: int, style: str | None) -> Evaluation:
        prompts = task.held_out(count, few_shot, style)
        return evaluate(model, task, prompts, gen_len=GEN_LEN, temperature=temperature)

    figures: dict[str, Any] = {"problems": count}
    for name, prompt in PROMPTS.items():
        figures[f"{name}_greedy"] = judged(0.0, *prompt).accuracy.as_dict()
        sampled = judged(1.0, *prompt)
        figures[f"{name}_sampled"] = sampled.accuracy.as_dict()
        if name == "zero":
            figures["styles"] = {s: {"share": round(share, 4), **a.as_dict()} for s, (share, a) in sampled.by_style().items()}
    return figures


def show(figure: dict[str, float]) -> str:
    """An accuracy with its interval, in percent."""
    return f"{figure['value']:.1%} [{figure['low']:.1%}, {figure['high']:.1%}]"


def write_card(directory: Path, args: PretrainArgs, seconds: float) -> str:
    """Measure the model, write card.json and README.md beside it, and return the card's text."""
    figures = measure(directory, device=args.device)
    config = json.loads((directory / "config.json").read_text())
    parameters = sum(p.numel() for p in BridgedTransformer(directory, device="cpu").base.parameters.values())
    recipe = ", ".join(f"{f.name} {getattr(args, f.name)}" for f in fields(args) if f.name not in ("device", "output_dir"))
    styles = "\n".join(
        f"| {style} | {figures['styles'][style]['share']:.1%} | {show(figures['styles'][style])} |"
        for style in STYLES
        if style in figures["styles"]
    )
    text = TEXT.format(
        parameters=parameters,
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        vocab=config["vocab_size"],
        recipe=recipe,
        minutes=seconds / 60,
        count=figures["problems"],
        gen_len=GEN_LEN,
        styles=styles,
        **{name: show(figure) for name, figure in figures.items() if isinstance(figure, dict) and "value" in figure},
    )
    write_atomically(directory / "card.json", json.dumps({**figures, "seconds": round(seconds)}, indent=2) + "\n")
    write_atomically(directory / "README.md", text)
    return text
