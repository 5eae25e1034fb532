"""How the family's trainers go about it: draws, rows, penalties, answers, and the table of algorithms itself."""

import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_lib.algorithms import table
from rlhf_lib.args import FAMILY, GrpoArgs, InputError, PolicyGradientArgs, from_json, to_json
from rlhf_lib.args.algorithms import ALGORITHMS
from rlhf_lib.layout import chosen_at, generated
from rlhf_lib.memory import ReplayMemory
from rlhf_lib.models import BridgedTransformer
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.rollouts import Rollout, TokenScores, joined, rollout
from rlhf_lib.tasks import Gsm8kTask, PocketTask, Prompts
from rlhf_lib.trainers import TRAINERS
from rlhf_lib.trainers.policy_gradient import PolicyGradientTrainer, overlong_penalty
from rlhf_lib.trainers.refill import Drawn, refilled
from rlhf_lib.trainers.rl import Rewarded

POCKET = {"base_model": "pocket", "task": "pocket", "gen_len": 20, "batch_size": 8, "num_minibatches": 2}


@pytest.fixture
def build(tmp_path):
    """A trainer of the bundled model on its word problems."""

    def made(name, kind=None, **changes):
        given = {**POCKET, "device": "cpu", "eval_problems": 0, "output_dir": str(tmp_path / "run"), **changes}
        return (kind or TRAINERS[name])({**FAMILY, "grpo": GrpoArgs}[name](**given))

    return made


class TestTable:
    def test_every_row_has_a_trainer_and_arguments(self):
        assert set(FAMILY) == set(ALGORITHMS) - {"grpo"}
        assert set(FAMILY) < set(TRAINERS)
        for name in ALGORITHMS:
            assert f"`{name}`" in table()

    def test_the_readme_has_it(self):
        assert table() in (Path(__file__).parents[2] / "README.md").read_text()

    @pytest.mark.parametrize("name", FAMILY)
    def test_arguments_survive_a_file(self, name):
        args = FAMILY[name](task="pocket", seed=3)
        assert from_json(FAMILY[name], to_json(args)) == args
        with pytest.raises(InputError, match=f"is of '{re.escape(name)}', not of 'grpo'"):
            from_json(GrpoArgs, to_json(args))

    @pytest.mark.parametrize("name", FAMILY)
    def test_what_a_row_does_not_read_is_refused(self, name):
        kind = FAMILY[name]
        other = {"group_size": 4, "kl_estimator": "k1", "rewards": ("correctness",), "reward_model": "x", "refill_draws": 2}
        other |= {"clip_coef": 0.3, "clip_coef_high": 0.4, "overlong_share": 0.5, "mask_truncated": True}
        for option in kind.unread:
            with pytest.raises(InputError, match=f"^{option}=.* would change nothing: "):
                kind(task="pocket", **{option: other[option]})
        assert set(kind.unread) <= {field.name for field in fields(kind)}

    def test_a_row_of_ones_own(self, build):
        """A function in the place of a name, on a subclass."""

        def as_ranks(rewards, group_size):
            return rewards.reshape(-1, group_size).argsort(1).argsort(1).flatten().float()

        class Mine(PolicyGradientTrainer):
            algorithm = replace(ALGORITHMS["grpo"], advantage=as_ranks)

        trainer = build("dr-grpo", Mine, group_size=4)
        memory = trainer.rollout_phase()
        expected = as_ranks(trainer.rewarded.rewards, 4)
        assert torch.equal(memory.advantages, expected[:, None].expand(-1, 20))

    def test_minibatches_count_by_their_tokens(self, build):
        """The mean of the minibatches' gradients is that of the token mean over the whole batch."""
        trainer = build("cispo", group_size=4)
        memory = trainer.rollout_phase()
        memory.mask = memory.mask * torch.tensor([[1.0]] * 4 + [[0.0]] * 3 + [[1.0]])
        memory.mask[0, 3:] = 0
        trainer.tokens_per_minibatch = float(memory.mask.sum()) / 2
        parameters = trainer.model.lora_params()
        torch.manual_seed(0)
        parts = [torch.autograd.grad(trainer.compute_rlhf_objective(m), parameters) for m in memory.get_minibatches()]
        whole = PolicyGradientArgs(**{**POCKET, "num_minibatches": 1, "kl_coef": 0.0, "clip_coef_high": 0.28, "group_size": 4})
        trainer.args, trainer.tokens_per_minibatch, memory.args = whole, float(memory.mask.sum()), whole
        expected = torch.autograd.grad(trainer.compute_rlhf_objective(memory.get_minibatches()[0]), parameters)
        for (a, b), c in zip(zip(*parts, strict=True), expected, strict=True):
            torch.testing.assert_close((a + b) / 2, c, atol=1e-6, rtol=1e-4)


def drawn(rewards, start=0, prefix=3):
    """Completions that are told apart by their first token."""
    count = len(rewards)
    ids = torch.cat([torch.zeros(count, prefix), start + torch.arange(count)[:, None], torch.ones(count, 1)], dim=1).long()
    columns = [torch.full((count, 2), float(start)) for _ in range(2)]
    texts = [f"{start + i}" for i in range(count)]
    sampled = SimpleNamespace(ids=ids, attention_mask=torch.ones_like(ids), mask=torch.ones(count, 2), texts=texts)
    made = rollout_of(sampled, columns)
    each = {"right": list(rewards), "first": [start + i for i in range(count)]}
    return Drawn(made, Rewarded(torch.tensor(rewards), each, (1.0, 0.0), [reward > 0 for reward in rewards]))


def rollout_of(sampled, columns):
    return Rollout(sampled.ids, sampled.attention_mask, sampled.mask, *columns, sampled.texts)


class TestRefill:
    def test_groups_with_spread_take_the_place_of_others(self):
        """Groups of two: the first draw has one with spread, the second two, of which one is needed."""
        first = drawn([1.0, 1.0, 0.0, 1.0])
        asked = []

        def draw_more(number):
            asked.append(number)
            return drawn([0.0, 1.0, 1.0, 0.0], start=10, prefix=5)

        found, figures = refilled(first, draw_more, 2, draws=3)
        assert asked == [1]
        assert found.sampled.completions == ["2", "3", "10", "11"]
        assert found.rewarded.rewards.tolist() == [0.0, 1.0, 0.0, 1.0]
        assert found.rewarded.each["first"] == [2, 3, 10, 11]
        assert found.rewarded.correct == [False, True, False, True]
        assert found.sampled.ids[:, 5].tolist() == [2, 3, 10, 11]
        assert found.sampled.attention_mask.tolist() == [[0, 0, 1, 1, 1, 1, 1]] * 2 + [[1] * 7] * 2
        assert figures == {"draws": 2.0, "groups_refilled": 1.0}

    def test_draws_are_bounded_and_the_batch_stays_whole(self):
        asked = []

        def draw_more(number):
            asked.append(number)
            return drawn([1.0, 1.0, 0.0, 0.0], start=10 * number)

        found, figures = refilled(drawn([1.0, 1.0, 0.0, 1.0]), draw_more, 2, draws=3)
        assert asked == [1, 2, 3]
        assert found.sampled.completions == ["2", "3", "0", "1"]
        assert figures == {"draws": 4.0, "groups_refilled": 0.0}

    def test_a_full_batch_asks_for_nothing(self):
        first = drawn([1.0, 0.0, 0.0, 1.0])
        found, _ = refilled(first, lambda number: pytest.fail("asked"), 2, draws=3)
        assert found.sampled.completions == first.sampled.completions

    def test_joined_rollouts_score_as_each_alone(self):
        """Padding that joining adds is hidden from the model."""
        model = BridgedTransformer("pocket", device="cpu")
        parts = [rollout(model, prompts, 6, stop_at_eos=False) for prompts in (["Tom", "The"], ["Question: Anna has 4 pears."])]
        both = joined(parts)
        logits = model(both.ids, both.attention_mask)
        alone = [model(part.ids, part.attention_mask) for part in parts]
        for rows, expected in zip((slice(0, 2), slice(2, 3)), alone, strict=True):
            torch.testing.assert_close(chosen_at(logits[rows], 6), chosen_at(expected, 6), atol=1e-4, rtol=1e-4)
        assert torch.equal(both.take([2, 0]).ids, both.ids[[2, 0]])

    def test_a_phase_of_dapo(self, build):
        """Whatever was drawn: a whole batch, the same on a second trainer, groups without spread last."""
        found = []
        for _ in range(2):
            trainer = build("dapo", group_size=2, gen_len=30)
            torch.manual_seed(5)
            memory = trainer.rollout_phase()
            found.append(memory.sample_ids)
            groups = trainer.rewarded.rewards.reshape(-1, 2)
            spread = (groups[:, 0] != groups[:, 1]).tolist()
            assert spread == sorted(spread, reverse=True)
            assert memory.mask[torch.tensor([not ended for ended in trainer.sampled.ended])].sum() == 0
        assert torch.equal(*found)


class TestRows:
    def test_right_ones(self, build):
        trainer = build("self-training", batch_size=32, gen_len=40)
        memory = trainer.rollout_phase()
        right = torch.tensor(trainer.rewarded.correct)
        assert 0 < right.sum() < 32
        assert torch.equal(memory.mask, trainer.sampled.mask * right[:, None])
        assert (memory.advantages == 1).all()

    def test_the_best_of_each_group_if_it_is_right(self, build):
        trainer = build("expert-iteration", batch_size=32, group_size=8, gen_len=40)
        memory = trainer.rollout_phase()
        kept = memory.mask.sum(1).reshape(4, 8) > 0
        right = torch.tensor(trainer.rewarded.correct).reshape(4, 8)
        assert torch.equal(kept.sum(1) == 1, right.any(1))
        assert (right | ~kept).all()

    def test_overlong_by_hand(self):
        """Up to 16 of 20 tokens free, then a quarter more each."""
        lengths = torch.tensor([1.0, 16.0, 17.0, 19.0, 20.0])
        torch.testing.assert_close(overlong_penalty(lengths, 20, 0.2), torch.tensor([0.0, 0.0, 0.25, 0.75, 1.0]))

    def test_the_penalty_is_taken_from_the_rewards_of_advantages_alone(self, build):
        trainer = build("dapo", group_size=4, gen_len=8, refill_draws=0, mask_truncated=False)
        torch.manual_seed(1)
        sampled, rewards = trainer.sample_and_reward()
        penalty = overlong_penalty(sampled.lengths, 8, 0.2)
        assert penalty.max() > 0.99
        torch.testing.assert_close(rewards, trainer.rewarded.rewards - penalty)

    def test_kl_in_every_tokens_reward_whitened_over_the_batch(self, build):
        """REINFORCE++ by hand: reward minus the weighted log-ratios still to come, mean 0 and deviation 1 over real tokens."""
        trainer = build("reinforce++", kl_coef=0.5)
        sampled = rollout(trainer.model, ["Tom"] * 8, 20)
        logprobs, ref_logprobs = (torch.randn(8, 20) * sampled.mask for _ in range(2))
        logits = torch.zeros(8, 21, 3)
        rewards = torch.tensor([0.0, 1.0] * 4)
        found = trainer.compute_token_advantages(rewards, TokenScores(logits, logits, logprobs, ref_logprobs), sampled)
        expected = torch.zeros(8, 20)
        for i in range(8):
            for t in range(int(sampled.mask[i].sum())):
                expected[i, t] = rewards[i] - 0.5 * sum(logprobs[i, t:] - ref_logprobs[i, t:])
        real = expected[sampled.mask == 1]
        torch.testing.assert_close(found, (expected - real.mean()) / real.std() * sampled.mask, atol=1e-4, rtol=1e-4)

    def test_each_reward_is_normalised_on_its_own(self, build):
        """Weights count, and where a function abstained a completion has nothing of it."""
        trainer = build("gdpo", group_size=4)
        first, second = torch.tensor([0.0, 1.0, 1.0, 0.0, 5.0, 5.0, 5.0, 5.0]), torch.tensor([1.0, 2.0, 3.0, 4.0] * 2)
        given = second.tolist()
        trainer.rewarded = Rewarded(first + second, {"a": first.tolist(), "b": [*given[:7], None]}, (2.0, 0.5))
        sampled = rollout(trainer.model, ["Tom"] * 8, 20)
        zeros = torch.zeros(8, 20)
        scores = SimpleNamespace(logprobs=zeros, ref_logprobs=zeros)
        found = PolicyGradientTrainer.compute_token_advantages.__wrapped__(trainer, first, scores, sampled)

        def whitened(rewards):
            groups = rewards.reshape(2, 4)
            spread = groups.std(1, keepdim=True)
            return ((groups - groups.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()

        total = 2 * whitened(first) + 0.5 * whitened(torch.tensor([*given[:7], 0.0])) * torch.tensor([1.0] * 7 + [0.0])
        torch.testing.assert_close(found[:, 0], (total - total.mean()) / (total.std() + 1e-5), atol=1e-4, rtol=1e-4)


def worked_answers():
    """Worked solutions of the bundled problems that give their answer in tags, with that answer."""
    worked = PocketTask().worked(50)
    pairs = zip(worked.columns["solution"], worked.columns["answer"], strict=True)
    return [pair for pair in pairs if "<answer>" in pair[0]]


class TestLatro:
    def test_right_answers_stand_behind_the_reasoning(self, build):
        trainer = build("latro", group_size=4, gen_len=40, batch_size=16)
        memory = trainer.rollout_phase()
        prompts = trainer.task.draw(4, 0, 0).repeat(4)
        tokenizer = trainer.model.tokenizer
        for i, answer in enumerate(prompts.columns["answer"]):
            row, seen = (generated(found, 40)[i] for found in (memory.sample_ids, memory.attention_mask))
            taught, reasoning = trainer.answer_mask[i] == 1, trainer.sampled.mask[i] == 1
            assert tokenizer.decode(row[taught]) == f"{answer}\n</answer>\n</s>"
            assert tokenizer.decode(row[seen == 1]).endswith(f"<answer>\n{answer}\n</answer>\n</s>")
            completion, kept = trainer.sampled.completions[i], tokenizer.decode(row[reasoning])
            assert completion.startswith(kept)
            assert "<answer>" not in kept.removesuffix("<answer>")
            assert tokenizer.decode(row[(seen == 1) & ~taught & ~reasoning]) == ("\n" if "<answer>" in kept else "<answer>\n")
        assert torch.equal(memory.mask, trainer.sampled.mask + trainer.answer_mask)
        assert (trainer.sampled.mask * trainer.answer_mask == 0).all()

    def test_rewards_are_log_likelihoods(self, build):
        """By Hugging Face's own model, without a cache, one sequence at a time; leave-one-out of them, and 1 on answers."""
        trainer = build("latro", group_size=4, kl_coef=0.0)
        memory = trainer.rollout_phase()
        hf = AutoModelForCausalLM.from_pretrained(BUNDLED["pocket"]).eval()
        found = []
        for i in range(8):
            ids = memory.sample_ids[i][memory.attention_mask[i] == 1]
            with torch.no_grad():
                logprobs = hf(ids[None], use_cache=False).logits[0].log_softmax(-1)
            count = int(trainer.answer_mask[i].sum())
            found.append(sum(float(logprobs[t - 1, ids[t]]) for t in range(len(ids) - count, len(ids))))
        rewards = torch.tensor(found).reshape(2, 4)
        others = (rewards.sum(1, keepdim=True) - rewards) / 3
        expected = torch.where(trainer.answer_mask == 1, 1.0, (rewards - others).flatten()[:, None])
        torch.testing.assert_close(memory.advantages * memory.mask, expected * memory.mask, atol=1e-3, rtol=1e-3)

    def test_no_room(self, build):
        with pytest.raises(InputError, match="gen_len=4 leaves no room for reasoning before the answer"):
            build("latro", group_size=4, gen_len=4).rollout_phase()

    def test_forms_of_answers(self):
        assert PocketTask.answer_form == "<answer>\n{}\n</answer>\n"
        assert all(text.endswith(PocketTask.answer_form.format(answer)) for text, answer in worked_answers())
        forms = {style: Gsm8kTask(GrpoArgs(task="gsm8k", prompt_style=style)).answer_form for style in ("plain", "xml")}
        assert forms == {"plain": "#### {}", "xml": "<answer>\n{}\n</answer>\n"}


class TestMasks:
    def test_a_token_may_be_seen_and_not_trained_on(self, make):
        """Another text in its place changes what comes after it, but it has no gradient of its own."""
        trainer = make("grpo", group_size=4, batch_size=8, num_minibatches=1, kl_coef=0.0, ent_coef=0.0)
        torch.manual_seed(0)
        memory = trainer.rollout_phase()
        memory.mask[:, 2] = 0
        memory.advantages = torch.randn(8, 6)
        minibatch = memory.get_minibatches()[0]
        assert (minibatch.attention_mask[:, -4] == 1).all()
        value = trainer.compute_rlhf_objective(minibatch)
        minibatch.advantages = minibatch.advantages.clone()
        minibatch.advantages[:, 2] = 100.0
        assert torch.equal(trainer.compute_rlhf_objective(minibatch), value)
        minibatch.sample_ids = minibatch.sample_ids.clone()
        minibatch.sample_ids[:, -4] = 7
        assert not torch.equal(trainer.compute_rlhf_objective(minibatch), value)

    def test_prompts_follow_their_columns(self):
        prompts = Prompts(["a", "b"], {"answer": [1, 2]}).repeat(2).take([3, 0])
        assert (prompts.prompts, prompts.columns) == (["b", "a"], {"answer": [2, 1]})


QUICK = ("dapo", "latro")


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in FAMILY if n not in QUICK)])
@pytest.mark.parametrize("rank", [4, pytest.param(None, marks=pytest.mark.slow)])
def test_every_algorithm_trains(name, rank, build):
    """Adapters, or every weight; something moves, and nothing is NaN."""
    changes = {} if "group_size" in FAMILY[name].unread else {"group_size": 4}
    trainer = build(name, gen_len=24, batch_size=16, total_phases=2, warmup_steps=0, lora_rank=rank, **changes)
    before = [p.detach().clone() for p in trainer.model.get_base_model_trainable_params()]
    summary = trainer.train()
    assert summary["phases"] == 2
    after = trainer.model.get_base_model_trainable_params()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.isfinite().all() for p in after)
    assert isinstance(trainer.memory, ReplayMemory)
