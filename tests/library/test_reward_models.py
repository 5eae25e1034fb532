"""Reward models: scores, saving, training of every kind, and their use as reward."""

import json

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_lib.args import InputError, RewardModelArgs
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.rewards.learned import reward_model_reward
from rlhf_lib.trainers import RewardModelTrainer
from rlhf_lib.trainers.reward_model import Judged, question_of, read_pair


def test_an_encoder_scores_as_transformers_does(roberta_dir):
    model = RewardModel(roberta_dir, device="cpu")
    assert not model.is_causal
    hf, tokenizer = AutoModelForSequenceClassification.from_pretrained(roberta_dir), AutoTokenizer.from_pretrained(roberta_dir)
    text = "<s>Is it?</s></s>Yes, it is.</s>"[: -len("</s>")].replace("</s></s>", "</s>")
    ids = tokenizer(f"{text}</s>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    torch.testing.assert_close(model.score(["Is it?"], ["Yes, it is."]), hf.eval()(ids).logits[0].detach())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neo"])
def test_batches_score_as_single_texts_do(kind, model_dirs):
    """Also where padding and end of sequence share an id, on which transformers' own pooling stumbles."""
    torch.manual_seed(1)
    model = RewardModel(model_dirs[kind], device="cpu", longest=64)
    model.tokenizer.pad_token = model.tokenizer.eos_token
    questions, completions = ["Is it?", "a", "Who is there at this hour?"], ["Yes.", "b", "Anna </s> and Ben"]
    together = model.score(questions, completions)
    apart = torch.cat([model.score([q], [c]) for q, c in zip(questions, completions, strict=True)])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)
    assert together.unique().numel() == 3


def test_long_texts_lose_the_questions_beginning(model_dirs):
    model = RewardModel(model_dirs["llama"], device="cpu", longest=20)
    ids = model.encode_one("first " * 30 + "last", "done")
    assert len(ids) == model.longest
    assert model.tokenizer.decode(ids).endswith("lastdone</s>")
    assert len(model.encode_one("a", "b " * 100)) == model.longest


def test_saving_and_loading(roberta_dir, tmp_path):
    model = RewardModel(roberta_dir, device="cpu")
    model.model.config.reward_kind = "verifier"
    again = RewardModel(model.save_pretrained(tmp_path / "saved"), device="cpu")
    assert again.kind == "verifier"
    torch.testing.assert_close(again.score(["q"], ["a"]), model.score(["q"], ["a"]))
    fn = reward_model_reward(again)
    assert fn.__name__ == "reward_model"
    conversation = [[{"role": "assistant", "content": "a"}]]
    for rewards in (fn(["q"], ["a"]), fn(["?"], conversation, question=["q"]), fn([[{"role": "user", "content": "q"}]], ["a"])):
        assert rewards == pytest.approx(model.probability(["q"], ["a"]).tolist())


def test_a_random_head_does_not_judge():
    with pytest.raises(InputError, match="has no trained head"):
        RewardModel.trained("pocket", device="cpu")


def test_the_limit_is_saved(roberta_dir, tmp_path):
    RewardModel(roberta_dir, device="cpu", longest=40).save_pretrained(tmp_path / "short")
    assert RewardModel(tmp_path / "short", device="cpu").longest == 40


def test_what_is_no_reward_model(tmp_path):
    with pytest.raises(InputError, match="reward model='/no/such'"):
        RewardModel("/no/such")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be loaded"):
        RewardModel(tmp_path)


def options(tmp_path, **more):
    return {"device": "cpu", "output_dir": str(tmp_path / "run"), "log_samples_every": 0, "eval_problems": 0, **more}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "kind", ["bradley-terry", pytest.param("verifier", marks=SLOW), pytest.param("regression", marks=SLOW)]
)
def test_it_learns_what_is_better(kind, tmp_path):
    """From the bundled model's own answers: better than chance on questions that it has not seen."""
    more = {"base_model": "pocket", "reward_base": "pocket", "gen_len": 40, "problems": 40, "epochs": 3, "lr": 5e-4}
    trainer = RewardModelTrainer(RewardModelArgs(kind=kind, **more, **options(tmp_path)))
    questions = [{question_of(row) for row in rows} for rows in (trainer.train_rows, trainer.test_rows)]
    assert not questions[0] & questions[1]
    summary = trainer.train()
    guessing = max(summary["positive_share"], 1 - summary["positive_share"]) if kind == "verifier" else 0.5
    assert summary["judged_after"]["value"] > guessing + 0.05
    assert 0 <= summary["calibration_error"] <= 1
    assert RewardModel(tmp_path / "run" / "model", device="cpu").kind == kind


def test_comparisons_from_a_file(roberta_dir, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{i}?", "chosen": "good " * (i % 3 + 1), "rejected": "bad"} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"comparisons": str(file), "reward_base": str(roberta_dir), "batch_size": 4, "epochs": 6, "lr": 1e-2}
    trainer = RewardModelTrainer(RewardModelArgs(**common, **options(tmp_path, margin=0.5, centring_coef=0.01)))
    assert trainer.train()["judged_after"]["value"] == 1.0
    talk = {"prompt": [{"role": "user", "content": "q?"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}
    better, worse = read_pair(talk)
    assert (better, worse) == (Judged("q?", "a", 1.0), Judged("q?", "b", 0.0))
    with pytest.raises(InputError, match=r"line 1 of .*: lacks completion, score"):
        RewardModelTrainer(RewardModelArgs(kind="regression", **common, **options(tmp_path / "other")))


def test_the_data_sets_own_solutions_help_a_weak_policy(neo_dir, gsm8k_dir, roberta_dir, tmp_path):
    common = {"base_model": str(neo_dir), "reward_base": str(roberta_dir), "task": "gsm8k", "data": str(gsm8k_dir)}
    common |= {"problems": 10, "samples": 2, "gen_len": 4, "epochs": 1}
    trainer = RewardModelTrainer(RewardModelArgs(with_solutions=True, **common, **options(tmp_path)))
    assert all(better.completion.endswith(tuple("0123456789")) for better, _ in trainer.train_rows)
    with pytest.raises(InputError, match="set with_solutions"):
        RewardModelTrainer(RewardModelArgs(**common, **options(tmp_path)))


def test_the_losses_are_those_of_preferences(roberta_dir, tmp_path):
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"{i}?", "completion": "x" * i, "score": float(i % 2)} for i in range(10)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {"comparisons": str(file), "reward_base": str(roberta_dir)}
    judged = [Judged("a?", "b", 1.0), Judged("c?", "d", 0.0)]
    for kind, expected in (
        ("verifier", lambda s: -(s[0].sigmoid().log() + (1 - s[1].sigmoid()).log()) / 2),
        ("regression", lambda s: ((s[0] - 1) ** 2 + s[1] ** 2) / 2),
    ):
        trainer = RewardModelTrainer(RewardModelArgs(kind=kind, **common, **options(tmp_path)))
        scores = trainer.model.score(["a?", "c?"], ["b", "d"])
        torch.testing.assert_close(trainer.loss(judged).detach(), expected(scores), atol=1e-5, rtol=1e-4)


def test_a_reward_model_rewards_training(make, roberta_dir, gsm8k_dir, neo_dir):
    common = {"task": "gsm8k", "data": str(gsm8k_dir), "base_model": str(neo_dir), "group_size": 4}
    trainer = make("grpo", reward_model=str(roberta_dir), **common)
    trainer.rollout_phase()
    assert [fn.__name__ for fn in trainer.task.reward_fns] == ["reward_model"]
    both = make("grpo", reward_model=str(roberta_dir), rewards=("correctness=2",), **common)
    assert [fn.__name__ for fn in both.task.reward_fns] == ["correctness_reward", "reward_model"]
    assert both.task.reward_weights == (2.0, 1.0)
