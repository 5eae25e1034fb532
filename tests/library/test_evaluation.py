"""Several samples a problem, judged: pass@k, votes, reranking, and the files that show them; the comparison's report."""

import csv
import json
import statistics
from html.parser import HTMLParser

import pytest

from rlhf_lib.args import CompareArgs
from rlhf_lib.compare.report import over_seeds, tables
from rlhf_lib.compare.runs import MEASURES, Outcome
from rlhf_lib.evaluate import Accuracy, Evaluation, SampledEvaluation, evaluate, evaluate_samples
from rlhf_lib.evaluate.report import problem_rows, results_table, write_report
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.runs import first_reaching
from rlhf_lib.tasks import PocketTask, Prompts


def sampled():
    """Two problems of four samples: in the first the majority is right, in the second only the best-scored one."""
    return SampledEvaluation(
        Prompts(["a", "b"], {"answer": ["1", "2"]}),
        [["1", "1", "3", ""], ["4", "2", "4", "5"]],
        [[True, True, False, False], [False, True, False, False]],
        [[1, 1, 3, None], [4, 2, 4, 5]],
        [[0.0, 1.0, 2.0, -1.0], [0.0, 3.0, 1.0, -2.0]],
    )


def test_measures():
    judged = sampled()
    assert judged.pass_at(1).value == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert judged.pass_at(4).value == 1.0
    assert judged.majority_at(4).value == 0.5
    assert judged.rerank_at(4).value == 0.5  # the first problem's best score is a wrong answer
    assert judged.rerank_at(2).value == 1.0
    assert judged.weighted_at(4).value == 0.5
    names = [name for name, _ in judged.table()]
    assert names == ["pass@1", "pass@2", "pass@4", "maj@2", "maj@4", "rerank@2", "rerank@4", "weighted@2", "weighted@4"]


def test_without_scores_nothing_is_reranked():
    judged = SampledEvaluation(Prompts(["a"]), [["1"]], [[True]], [[1]])
    assert judged.rerank_at(1) is judged.weighted_at(1) is None
    assert [name for name, _ in judged.table()] == ["pass@1"]


def test_no_answer_is_a_wrong_answer():
    judged = SampledEvaluation(Prompts(["a"]), [["", ""]], [[False, False]], [[None, None]])
    assert judged.majority_at(2).value == 0


def test_intervals_of_shares():
    shares = [0.0, 0.5, 1.0, 0.25] * 25
    figure = Accuracy.mean(shares)
    half = 1.959964 * statistics.stdev(shares) / 10
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.4375, 0.4375 - half, 0.4375 + half))
    assert Accuracy.mean([1.0, 0.0, 1.0]) == Accuracy.of(2, 3)
    assert Accuracy.mean([0.999] * 3 + [1.0]).high <= 1


def test_a_model_judged_many_times():
    model, task = BridgedTransformer("pocket", device="cpu"), PocketTask()
    prompts = task.held_out(6)
    judged = evaluate_samples(model, task, prompts, 4, gen_len=40, batch_size=5)
    assert [len(group) for group in judged.completions] == [4] * 6
    for i, group in enumerate(judged.completions):
        assert judged.correct[i] == task.is_correct(prompts.slice(i, i + 1).repeat(4), group)
        assert judged.votes[i] == [task.vote_of(completion) for completion in group]
    assert judged == evaluate_samples(model, task, prompts, 4, gen_len=40, batch_size=5)


class Visible(HTMLParser):
    """The text of a page, and its tags."""

    def __init__(self):
        super().__init__()
        self.text, self.tags = "", []

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)


def test_report_files(tmp_path):
    judged = sampled()
    hostile = "</pre><script>alert('x')</script>"
    greedy = Evaluation(judged.prompts, ["1", hostile], [True, False], [None, None], 0.0, [1, None])
    table = [("greedy", greedy.accuracy), *judged.table()]
    directory = write_report(str(tmp_path / "out"), "A title", table, problem_rows(greedy, judged), {"arguments": {"k": 4}})
    results = json.loads((directory / "results.json").read_text())
    assert results["results"]["greedy"]["value"] == 0.5
    rows = [json.loads(line) for line in (directory / "problems.jsonl").read_text().splitlines()]
    assert rows[1]["samples"][1] == {"completion": "2", "correct": True, "score": 3.0}
    assert "| maj@4" in (directory / "table.md").read_text()
    page = Visible()
    page.feed((directory / "samples.html").read_text())
    assert page.tags.count("script") == 1
    assert page.tags.count("details") == 2
    assert hostile in page.text
    assert "expected 2, read none" in page.text
    assert "50.0" in results_table(table)


# Reaching a level


def test_first_reaching_waits_for_a_window():
    history = [{"a": 0.1}, {"a": 0.6}, {}, {"a": 0.2}, {"a": 0.7}, {"a": None}, {"a": 0.7}, {"a": 0.1}]
    assert first_reaching(history, "a", 0.5) == 1
    assert first_reaching(history, "a", 0.5, window=2) == 4
    assert first_reaching(history, "a", 0.5, window=3) is None
    assert first_reaching([], "a", 0.5) is None


# The comparison's report


def outcome(method, seed, share, history=()):
    return Outcome(method, seed, dict.fromkeys(MEASURES, Accuracy.of(int(100 * share), 100)), list(history), 0.8)


def test_tables_over_seeds():
    def history(*values):
        return [
            {"step": 8 * i + 8, "samples": 128 * i + 128, "seconds": 3.0 * i + 3, "held_out_accuracy": v, "grad_norm": 1.0,
             "peak_memory_mb": 500.0}
            for i, v in enumerate(values)
        ]  # fmt: skip

    outcomes = [outcome("few-shot", s, 0.5) for s in range(2)]
    outcomes += [outcome("sft", 0, 0.9, history(0.1, 0.9)), outcome("sft", 1, 0.7, history(0.1, 0.2))]
    found = tables(outcomes, CompareArgs(methods=("few-shot", "sft"), seeds=2))
    assert "80.0 (70.0 to 90.0)" in found["accuracy"]
    assert "few-shot" in found["accuracy"]
    assert found["accuracy"].startswith("| method   | greedy, %")
    assert "strict, %" in found["accuracy"]
    assert "lenient, %" in found["accuracy"]
    assert "few-shot" not in found["efficiency"]
    assert "16, 1 of 2 seeds" in found["efficiency"]
    assert "10.00" in found["stability"]
    assert over_seeds(outcomes[:2], lambda o: o.at_target("step")) == "–"
    assert outcomes[2].as_row()["seconds_to_target"] == 6.0
    assert outcomes[3].as_row()["seconds_to_target"] is None


@pytest.mark.slow
def test_a_whole_comparison(tmp_path, neo_dir, gsm8k_dir, roberta_dir, capsys):
    """Two methods, one seed, a second of training each, in processes of their own; started again it repeats nothing."""
    from rlhf_lib import cli

    words = [
        "compare",
        "--task",
        "gsm8k",
        "--data",
        gsm8k_dir,
        "--base-model",
        neo_dir,
        "--methods",
        "few-shot,sft",
        "--seeds",
        1,
    ]
    words += ["--budget", 0.1, "--problems", 4, "--samples", 2, "--gen-len", 8, "--verifier", roberta_dir, "--few-shot", 1]
    words += ["--output-dir", tmp_path / "out", "--device", "cpu"]
    assert cli.main([str(word) for word in words]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert report in capsys.readouterr().out + "\n"
    for part in ("## Accuracy", "## Efficiency", "## Stability", "rerank@2", "rlhf compare", "--task gsm8k", "--data"):
        assert part in report
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [(row["method"], row["seed"]) for row in rows] == [("few-shot", "0"), ("sft", "0")]
    for name in ("accuracy.png", "learning.png"):
        assert (tmp_path / "out" / name).read_bytes()[:4] == b"\x89PNG"
    made = (tmp_path / "out" / "sft-seed0" / "summary.json").stat().st_mtime_ns
    assert cli.main([str(word) for word in words]) == 0
    assert (tmp_path / "out" / "sft-seed0" / "summary.json").stat().st_mtime_ns == made
    assert cli.main([str(word) for word in [*words, "--few-shot", 2]]) == 2
    assert "holds a comparison with other arguments: few_shot=2 (was 1)" in capsys.readouterr().err


def test_greedy_and_sampled_share_the_judge():
    task = PocketTask()
    prompts = task.held_out(3)
    judged = evaluate(BridgedTransformer("pocket", device="cpu"), task, prompts, gen_len=30, temperature=0.0)
    assert judged.correct == task.is_correct(prompts, judged.completions)
