"""What `rlhf eval` leaves behind: the table, the figures as JSON, every completion as JSON lines, and a page to browse."""

import html
import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from rlhf_lib.evaluate.accuracy import Accuracy
from rlhf_lib.evaluate.judging import Evaluation, SampledEvaluation
from rlhf_lib.files import write_atomically, writing

SHOWN = 200  # problems on the page

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }}
pre {{ white-space: pre-wrap; margin: .4em 0; padding: .5em .8em; background: #f6f6f4; border-left: 4px solid #bbb; }}
pre.right {{ border-color: #2a8c4a; }} pre.wrong {{ border-color: #c0392b; }}
details {{ border-bottom: 1px solid #ddd; padding: .3em 0; }} summary {{ cursor: pointer; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2em 1em .2em 0; text-align: left; }}
button {{ font: inherit; margin-right: .5em; }}
</style></head><body>
<h1>{title}</h1>
{table}
<p><button onclick="show('all')">all</button><button onclick="show('right')">right</button>
<button onclick="show('wrong')">wrong</button> when answered greedily; green: right, red: wrong</p>
{problems}
<script>
function show(kind) {{
  for (const d of document.querySelectorAll('details')) d.hidden = kind !== 'all' && d.dataset.greedy !== kind;
}}
</script></body></html>
"""


def results_table(rows: list[tuple[str, Accuracy]], tablefmt: str = "github") -> str:
    """Measures with their 95% intervals, in percent."""
    shown = [(name, f"{100 * a.value:.1f}", f"{100 * a.low:.1f} to {100 * a.high:.1f}") for name, a in rows]
    return tabulate(shown, ("measure", "percent", "95% interval"), tablefmt=tablefmt, disable_numparse=True)


def problem_rows(greedy: Evaluation, sampled: SampledEvaluation | None) -> list[dict[str, Any]]:
    """One object a problem: prompt, reference, the greedy completion, and all samples with verdicts and scores."""
    rows, answers = [], greedy.prompts.columns.get("answer")
    for i, prompt in enumerate(greedy.prompts.prompts):
        row = {
            "prompt": prompt,
            "answer": "" if answers is None else str(answers[i]),
            "greedy": {
                "completion": greedy.completions[i],
                "correct": greedy.correct[i],
                "read": None if greedy.votes[i] is None else str(greedy.votes[i]),
                **{name: verdicts[i] for name, verdicts in greedy.readings.items()},
            },
        }
        if sampled is not None:
            scores = [None] * sampled.samples if sampled.scores is None else sampled.scores[i]
            parts = zip(sampled.completions[i], sampled.correct[i], scores, strict=True)
            row["samples"] = [{"completion": text, "correct": right, "score": score} for text, right, score in parts]
        rows.append(row)
    return rows


def completion_block(label: str, completion: dict[str, Any]) -> str:
    """One completion on the page."""
    score = completion.get("score")
    head = label if score is None else f"{label}, score {score:.3f}"
    kind = "right" if completion["correct"] else "wrong"
    return f"<small>{head}</small><pre class={kind}>{html.escape(completion['completion'])}</pre>"


def page(title: str, table: list[tuple[str, Accuracy]], rows: list[dict[str, Any]]) -> str:
    """All problems, folded, with their completions; a button shows those that are right or wrong when answered greedily."""
    problems = []
    for i, row in enumerate(rows[:SHOWN]):
        kind = "right" if row["greedy"]["correct"] else "wrong"
        blocks = [completion_block("greedy", row["greedy"])]
        blocks += [completion_block(f"sample {j + 1}", sample) for j, sample in enumerate(row.get("samples", []))]
        right = sum(sample["correct"] for sample in row.get("samples", []))
        share = f", {right} of {len(row['samples'])} samples right" if "samples" in row else ""
        problems.append(
            f"<details data-greedy={kind}><summary>{i + 1}. {kind}: expected {html.escape(row['answer'])}, read "
            f"{html.escape(row['greedy']['read'] or 'none')}{share}</summary>"
            f"<pre>{html.escape(row['prompt'])}</pre>{''.join(blocks)}</details>"
        )
    return PAGE.format(title=html.escape(title), table=results_table(table, "html"), problems="\n".join(problems))


def write_report(
    directory: str, title: str, table: list[tuple[str, Accuracy]], rows: list[dict[str, Any]], about: dict[str, Any]
) -> Path:
    """results.json, table.md, problems.jsonl and samples.html in a directory, which is made if it is missing.

    Raises:
        CannotWrite: the disk is full or refuses; each file is the old one or the new one.
    """
    path = Path(directory)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    figures = {name: figure.as_dict() for name, figure in table}
    write_atomically(path / "results.json", json.dumps({**about, "results": figures}, indent=2) + "\n")
    write_atomically(path / "table.md", f"{title}\n\n{results_table(table)}\n")
    write_atomically(path / "problems.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_atomically(path / "samples.html", page(title, table, rows))
    return path
