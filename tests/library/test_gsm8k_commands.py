"""GSM8K from end to end by the commands that the README lists, on a tiny random GPT-Neo and a tiny random RoBERTa, offline."""

import json
import shutil

import pytest

from rlhf_lib import cli

FEW = ["--gen-len", 8, "--device", "cpu", "--dtype", "float32"]
TRAIN = [*FEW, "--eval-problems", 2, "--log-samples-every", 0]
PHASES = ["--total-phases", 2, "--warmup-steps", 0, "--batch-size", 8, "--num-minibatches", 2]


@pytest.fixture
def run(capsys, neo_dir, gsm8k_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words, base_model=neo_dir):
        start = [*words, "--task", "gsm8k", "--data", gsm8k_dir]
        start += [] if base_model is None else ["--base-model", base_model]
        try:
            code = cli.main([str(word) for word in start])
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        assert code == 0, captured.out + captured.err
        return captured.out

    return call


def summary(tmp_path, name):
    return json.loads((tmp_path / name / "summary.json").read_text())


def test_few_shot(run, tmp_path):
    out = run("eval", *FEW, "--problems", 3, "--few-shot", 2, "--output-dir", "judged")
    measures = {"greedy", "greedy, strict", "greedy, lenient", "greedy, well-formed"}
    assert set(json.loads((tmp_path / "judged" / "results.json").read_text())["results"]) == measures
    assert all(f"| {measure} " in out for measure in measures)
    row = json.loads((tmp_path / "judged" / "problems.jsonl").read_text().splitlines()[0])
    assert row["greedy"]["strict"] is row["greedy"]["well-formed"] is False


def test_sft_with_adapters_then_sample(run, tmp_path):
    run(
        "train",
        "sft",
        *TRAIN,
        "--problems",
        8,
        "--epochs",
        1,
        "--prompt-style",
        "plain",
        "--lora-rank",
        2,
        "--output-dir",
        "sft",
    )
    assert summary(tmp_path, "sft")["examples"] == 8
    out = run("sample", *FEW, "--adapter", "sft/model", "--count", 1)
    assert "--- base" in out
    assert "--- trained" in out


def test_reward_model_then_ppo_with_it_then_rerank(run, tmp_path, roberta_dir):
    more = ["--problems", 10, "--samples", 2, "--with-solutions", "--epochs", 1, "--reward-base", roberta_dir]
    run("train", "reward-model", *TRAIN, *more, "--kind", "verifier", "--prompt-style", "plain", "--output-dir", "verifier")
    assert "calibration_error" in summary(tmp_path, "verifier")
    ppo = [*TRAIN, *PHASES, "--critic-phases", 1, "--reward-model", "verifier/model", "--prompt-style", "plain"]
    run("train", "ppo", *ppo, "--output-dir", "ppo")
    assert 0 < summary(tmp_path, "ppo")["reward_first"] < 1
    out = run("eval", "--run", "ppo", "--problems", 3, "--samples", 2, "--reward-model", "verifier/model", base_model=None)
    assert "rerank@2" in out


def test_grpo_with_the_five_rewards(run, tmp_path):
    run("train", "grpo", *TRAIN, *PHASES, "--group-size", 4, "--output-dir", "grpo")
    args = json.loads((tmp_path / "grpo" / "args.json").read_text())
    assert args["prompt_style"] == "xml"
    record = json.loads((tmp_path / "grpo" / "metrics.jsonl").read_text().splitlines()[0])
    names = ("xml_correctness", "integer", "strict_format", "soft_format", "xml_count")
    assert {f"reward_{name}_reward" for name in names} <= set(record)
    assert "Respond in the following format" in run("sample", "--run", "grpo", "--count", 1, base_model=None)


@pytest.mark.parametrize("algorithm", ["reft", "self-training", "ppo-lora"])
def test_the_others(algorithm, run, tmp_path):
    more = ["--warmup-problems", 8, "--warmup-epochs", 1] if algorithm == "reft" else []
    run("train", algorithm, *TRAIN, *PHASES, *more, "--prompt-style", "plain", "--few-shot", 1, "--output-dir", "out")
    assert summary(tmp_path, "out")["phases"] == 2


def test_vote(run, tmp_path):
    out = run("eval", *FEW, "--problems", 3, "--samples", 4, "--output-dir", "vote")
    assert "maj@4" in out
    assert {file.name for file in (tmp_path / "vote").iterdir()} == {
        "results.json", "table.md", "problems.jsonl", "samples.html",
    }  # fmt: skip


def test_recipes_for_a_gpu_are_whole():
    """Every recipe is its algorithm's alone, parses into its arguments, and is for the task in its name."""
    from rlhf_lib.args import FAMILY
    from rlhf_lib.recipes import FAMILY_RECIPE, RECIPES, family_recipe, recipe, recipe_names

    named = [(algorithm, name) for algorithm in cli.TRAINABLE for name in recipe_names(algorithm)]
    of_family = recipe_names(FAMILY_RECIPE)
    for algorithm in FAMILY:
        for name in of_family:
            args = family_recipe(FAMILY[algorithm], RECIPES / f"{name}.json")
            assert (args.task, args.algorithm) == (name.removeprefix(f"{FAMILY_RECIPE}-"), algorithm)
            assert all(getattr(args, option) == value for option, value in args.composition.options.items())
    named += [("grpo", name) for name in of_family]
    assert sorted(name for _, name in named) == sorted(file.stem for file in RECIPES.glob("*.json"))
    for algorithm, name in named:
        if name in of_family:
            continue
        task = name.removeprefix(f"{algorithm}-").partition("-")[0]
        assert recipe(cli.TRAINABLE[algorithm], name).task == task


@pytest.fixture
def thinker(neo_dir, tmp_path):
    """The tiny model with a chat template like Qwen3's, which asks for thinking unless told not to."""
    from transformers import AutoTokenizer

    shutil.copytree(neo_dir, tmp_path / "thinker")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "thinker")
    thinks = "{% if enable_thinking is defined and enable_thinking is false %}[no thinking]{% else %}[think]{% endif %}"
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}" + thinks
    tokenizer.save_pretrained(tmp_path / "thinker")
    return tmp_path / "thinker"


@pytest.mark.parametrize(("name", "sign"), [("grpo-gsm8k-qwen3", "[no thinking]"), ("grpo-gsm8k-smollm2", "[think]")])
def test_a_recipe_by_name(name, sign, run, tmp_path, thinker):
    """--recipe NAME gives its values, which flags then override; a tiny model stands in for the recipe's."""
    small = [*TRAIN, *PHASES, "--group-size", 4, "--lora-rank", 2]
    run("train", "grpo", "--recipe", name, *small, "--output-dir", "out", base_model=thinker)
    args = json.loads((tmp_path / "out" / "args.json").read_text())
    assert (args["task"], args["prompt_style"], args["kl_coef"], args["lora_rank"]) == ("gsm8k", "xml", 0.04, 2)
    sample = json.loads((tmp_path / "out" / "samples.jsonl").read_text().splitlines()[0])
    assert sample["prompt"].endswith(sign)
    assert sample["prompt"].count("</answer>") == (2 if args["few_shot"] else 1)


def test_a_recipe_of_another_algorithm_is_refused():
    from rlhf_lib.args import InputError
    from rlhf_lib.recipes import recipe_file

    for name in ("ppo-lora-gsm8k", "grpo-gsm8k-qwen3", "gsm8k"):
        with pytest.raises(InputError, match=r"nor a recipe for ppo; those are ppo-gsm8k, ppo-pocket$"):
            recipe_file(name, "ppo")
