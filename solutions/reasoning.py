# Rendered by `rlhf course render`; fingerprint 47d286d4f276
"""Solutions of chapters/6_reasoning.md; run them with `python -m solutions.reasoning`.

Reading answers, rewarding them, fine-tuning on worked solutions, and choosing among many.
"""

import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf_lib.advantages import compute_gae, last_real_token
from rlhf_lib.args import InputError, ReftArgs
from rlhf_lib.finite import require_finite
from rlhf_lib.models.loading import padding_id
from rlhf_lib.objectives import Mask, hide
from rlhf_lib.optim import get_supervised_optimizer
from rlhf_lib.recipes import recipe, script_args
from rlhf_lib.rewards.answers import (
    ANSWERING,
    CONVENTIONS,
    LETTERS,
    MARKS,
    MOST_HASHES,
    as_text,
    extract_last_number,
    is_heading,
    is_literal,
    is_option,
    option_letter,
    read_reference,
    same_answer,
)
from rlhf_lib.rewards.formats import LEAST_REASONING, MULTILINE, SOFT, STRICT, TAGS, tagged_answer, text_of
from rlhf_lib.rewards.numbers import LARGEST_EXPONENT, LONGEST_ANSWER, NUMBER, bare
from rlhf_lib.rewards.shaping import reft_reward
from rlhf_lib.rollouts import Rollout, TokenScores
from rlhf_lib.tasks import Task
from rlhf_lib.tasks.prompting import question_text
from rlhf_lib.trainers.ppo import RLHFTrainer
from rlhf_lib.trainers.sft import encode_solutions, minibatches, supervised_step


def extract_tagged(completion: str) -> str | None:
    """The text between the last </answer> and the last <answer> before it; None without such a pair."""
    end = completion.rfind("</answer>")
    start = completion.rfind("<answer>", 0, end) if end >= 0 else -1
    return completion[start + len("<answer>") : end] if start >= 0 else None


def extract_hashes(completion: str) -> str | None:
    """The answer that #### marks (GSM8K's convention), on its own line or else on the next; None where #### marks none.

    In Markdown #### begins a heading. The last line that is none (is_heading) counts. Where all could be headings the last one
    is an answer, unless something that could be it (ANSWERING) follows.
    """
    parts = [part.strip() for part in completion.rsplit("####", MOST_HASHES)[1:]]
    lines = [part.split("\n", 1)[0] for part in parts]
    answers = [line for line in lines if not is_heading(line)]
    if not answers and lines and not ANSWERING.search(parts[-1], len(lines[-1])):
        answers = lines
    return answers[-1] if answers else None


def parse_number(text: str) -> Fraction | None:
    r"""The number that a text states: 18, $18.00, 1,000, 1 1/2, \frac{1}{2}, 50%, 18 dollars, x = 18; None if it states none.

    `bare` leaves the number alone, and NUMBER has to match all that is left: 2\sqrt{3} is not 2. Units are dropped: 50% is 50.
    None too for a text longer than LONGEST_ANSWER, an exponent beyond LARGEST_EXPONENT either way, and a fraction over 0; no
    text raises an error.
    """
    match = NUMBER.fullmatch(bare(text)) if len(text) <= LONGEST_ANSWER else None
    if match is None or abs(int(match["exponent"] or 0)) > LARGEST_EXPONENT:
        return None
    try:
        size = Fraction(match["whole"] or 0) + Fraction(match["numerator"]) / Fraction(match["denominator"] or 1)
    except ZeroDivisionError:
        return None
    return -size if match["sign"] == "-" else size


def marked_answer(text: str) -> str | None:
    """The first of MARKS, in order, that holds something; "" where all that are there are empty, None where there is none."""
    found = [answer.strip() for extract in MARKS.values() if (answer := extract(text)) is not None]
    return next(filter(None, found), "" if found else None)


def extract_answer(completion: str, convention: str = "any") -> str | None:
    """The answer of a completion under one convention; "any" takes the first mark that holds one, and else the last number.

    A mark with nothing in it is an empty answer, and no number from elsewhere counts.

    Raises:
        InputError: a convention that does not exist.
    """
    if convention == "any":
        marked = marked_answer(completion)
        return extract_last_number(completion) if marked is None else marked
    known = {**CONVENTIONS, **LETTERS}
    if convention not in known:
        raise InputError(f"convention={convention!r} does not exist; use any, {', '.join(known)}")
    answer = known[convention](completion)
    return None if answer is None else answer.strip()


def answer_key(answer: str) -> Fraction | str | None:
    """What two equal answers have in common: the number if there is one, else the text (as_text).

    None for a text that is empty or longer than LONGEST_ANSWER: it equals nothing, not even itself.
    """
    number = parse_number(answer)
    if number is not None:
        return number
    return as_text(answer) or None if len(answer) <= LONGEST_ANSWER else None


def answers_match(completion: str, reference: str, convention: str = "any") -> bool:
    """Whether a full completion gives the answer of the reference, which may be a bare answer or a worked solution.

    `convention` is about the completion: "any" looks for, in this order, the last closed <answer>, ####, boxed, "the answer
    is", the last number, and takes a text without any of them as it stands; the reference itself always matches. A reference
    that is an option's letter, such as "c" or "(C)", asks for a letter in all of these.
    """
    if is_option(reference):
        answer = extract_answer(completion, "letter" if convention == "any" else convention)
        return answer is not None and option_letter(answer) == option_letter(reference)
    answer = extract_answer(completion, convention)
    if convention == "any" and is_literal(completion, reference):
        return True
    if convention == "any" and answer is None:
        answer = completion  # of a text without marks and numbers, such as "Paris", all is the answer
    return answer is not None and same_answer(answer, read_reference(reference))


def xml_correctness_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """2 where the last closed <answer> holds the right answer, else 0. A right answer without the tags earns nothing."""
    pairs = zip(completions, answer, strict=True)
    return [2.0 if answers_match(text_of(completion), right, "xml") else 0.0 for completion, right in pairs]


def integer_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """0.5 where the tagged answer is a whole number in digits alone, right or wrong, else 0."""
    return [0.5 if re.fullmatch("[0-9]+", tagged_answer(completion)) else 0.0 for completion in completions]


def strict_format_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    r"""0.5 where the whole completion is the format, line by line, else 0; reasoning and answer have ONE line each.

    That is what the widespread pattern accepts, since its dot matches no line break: reasoning of several lines earns nothing.
    The line break after </answer> must be there, and nothing after it. See multiline_format_reward.
    """
    return [0.5 if STRICT.fullmatch(text_of(completion)) else 0.0 for completion in completions]


def soft_format_reward(prompts: list, completions: list, **columns: Any) -> list[float]:
    """0.5 where the completion begins with reasoning and answer in their tags, whatever the lines, else 0; more may follow."""
    return [0.5 if SOFT.match(text_of(completion)) else 0.0 for completion in completions]


def count_tags(text: str) -> float:
    r"""The reward of `xml_count_reward` for one text: 0.125 a tag that stands exactly once, less 0.001 a trailing character.

    What must stand once: "<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>". If the third does, what follows
    the last "\n</answer>\n" is trailing, the whole text where there is none; if the fourth does, what follows the last
    "\n</answer>" is trailing too, less one character.
    """
    opened, closed = text.count("\n<answer>\n") == 1, text.count("\n</answer>") == 1
    found = (text.count("<reasoning>\n") == 1) + (text.count("\n</reasoning>\n") == 1) + opened + closed
    trailing = len(text.split("\n</answer>\n")[-1]) * opened + (len(text.split("\n</answer>")[-1]) - 1) * closed
    return 0.125 * found - 0.001 * trailing


def is_honest(text: str) -> bool:
    """Whether `hardened_format_reward` pays for a text.

    MULTILINE matches the whole of it, each of TAGS stands once, the reasoning has at least LEAST_REASONING characters without
    the space around it, and the tagged answer states one number (parse_number).
    """
    if not MULTILINE.fullmatch(text) or any(text.count(tag) != 1 for tag in TAGS):
        return False
    reasoning = text.split("</reasoning>")[0].removeprefix("<reasoning>").strip()
    return len(reasoning) >= LEAST_REASONING and parse_number(tagged_answer(text)) is not None


def build_few_shot_prompt(question: str, examples: list[tuple[str, str]], room: int, count_tokens: Callable[[str], int]) -> str:
    r"""Worked examples, then the question: "Question: ...\nAnswer:\n" each, an example's solution after it, and an empty line.

    Args:
        question: what is to be answered; the prompt ends where its answer is to begin.
        examples: pairs (question, solution), in the order in which they are to stand.
        room: most tokens of the whole prompt. Examples are left out from the FRONT until it fits: those nearest to the
            question stay. The question itself stays whole even where it alone is too long.
        count_tokens: number of tokens of a text.
    """
    asked = question_text(question)
    shots = [f"{question_text(q)}{solution}\n\n" for q, solution in examples]
    while shots and count_tokens("".join(shots) + asked) > room:
        shots = shots[1:]
    return "".join(shots) + asked


def encode_example(
    tokenizer: Any, prompt: str, solution: str, end_id: int | None, prepend_bos: bool = True
) -> tuple[list[int], list[int]]:
    """(token ids, loss mask) of one example: beginning of sequence, prompt, solution, end of sequence.

    Prompt and solution are tokenised apart, as they are when a completion is sampled, and without special tokens. The
    beginning-of-sequence token goes in front if `prepend_bos` and the tokenizer has one, unless the prompt begins with it
    already. `end_id` goes last, unless it is None. The mask is 1 on the solution and the end, which is learned too, or the
    model would never stop; it is 0 on all before. Both lists have one entry a token.

    Raises:
        InputError: a solution without tokens.
    """
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    learned = tokenizer(solution, add_special_tokens=False)["input_ids"]
    if not learned:
        raise InputError(f"the solution of {prompt!r} is empty; every example needs at least one token to learn")
    bos = tokenizer.bos_token_id
    if prepend_bos and bos is not None and before[:1] != [bos]:
        before = [bos, *before]
    if end_id is not None:
        learned = [*learned, end_id]
    return before + learned, [0] * len(before) + [1] * len(learned)


def calc_sft_loss(
    logits: Float[Tensor, "batch seq vocab"], ids: Int[Tensor, "batch seq"], loss_mask: Float[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean negative log-probability, in nats, of the tokens whose loss mask is 1, each given what stands before it.

    The logits, made float32 first, predict the next token each, so the first is never scored. The mean is over tokens, not over
    sequences; without any the loss is 0.
    """
    logprobs = logits[:, :-1].float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    mask = loss_mask[:, 1:]
    return -(logprobs.masked_fill(mask == 0, 0.0)).sum() / mask.sum().clamp(min=1)


def compute_token_rewards(
    scores: Float[Tensor, " batch"],
    logprobs: Float[Tensor, "batch gen"],
    ref_logprobs: Float[Tensor, "batch gen"],
    kl_coef: float,
    *,
    mask: Mask = None,
) -> Float[Tensor, "batch gen"]:
    """ReFT's reward of every token: -kl_coef (logprob - ref_logprob), and at the last real token the score on top of that.

    The difference of log-probabilities is the k1 estimate of KL(policy || reference) at one token (Trung et al. 2024,
    section 3.2; Stiennon et al. 2020). No gradient passes through rewards. Positions after the last real token get 0, whatever
    stands there, infinities included.
    """
    mask = torch.ones_like(logprobs) if mask is None else mask.to(logprobs.dtype)
    penalty = hide(logprobs.detach() - ref_logprobs.detach(), mask)
    return last_real_token(mask) * scores[:, None] - kl_coef * penalty


class ReftTrainer(RLHFTrainer):
    """The value head shares the trunk, and the warmed-up model is the reference policy."""

    name = "reft"
    args: ReftArgs
    is_prepared = True

    def prepare_policy(self) -> None:
        """Supervised epochs on worked solutions at a constant learning rate, the same for the same seed."""
        args, model, started = self.args, self.model, time.perf_counter()
        if not args.warmup_epochs:
            return
        examples, _ = encode_solutions(model, self.task.worked(args.warmup_problems), model.cfg.n_ctx, args.prepend_bos)
        optimizer = get_supervised_optimizer(
            model.get_base_model_trainable_params(), args.warmup_lr, args.weight_decay, args.optimizer
        )
        seeds = [random.Random(f"{args.seed}-{epoch}").getrandbits(32) for epoch in range(args.warmup_epochs)]
        pad = padding_id(model.tokenizer)
        batches = (batch for seed in seeds for batch in minibatches(examples, args.warmup_batch_size, pad, seed))
        for batch in self.within_budget("warmup_updates", batches):
            supervised_step(model, batch, optimizer, args.max_grad_norm, self.stop_if_diverged)
        require_finite(model.named_parameters(), "the model after the warm-up", "lower warmup_lr, or set warmup_epochs to 0")
        self.seconds_before_run = time.perf_counter() - started

    def make_task(self) -> Task:
        """The task with ReFT's reward, unless the arguments ask for another."""
        task = super().make_task()
        if not self.args.rewards and self.args.reward_model is None:
            task.reward_fns, task.reward_weights = (reft_reward,), (1.0,)
        return task

    def compute_token_advantages(
        self, rewards: Float[Tensor, " batch"], scores: TokenScores, sampled: Rollout
    ) -> Float[Tensor, "batch gen"]:
        """The KL is paid out of every token's reward, and `compute_gae` makes advantages of that.

        Rewards are taken as they are, not whitened. `compute_token_rewards` makes one reward a token of them with
        args.kl_reward_coef and the log-probabilities in `scores`; args.gamma and args.gae_lambda are compute_gae's.
        """
        args, mask = self.args, sampled.mask
        token_rewards = compute_token_rewards(rewards, scores.logprobs, scores.ref_logprobs, args.kl_reward_coef, mask=mask)
        options = {"gamma": args.gamma, "gae_lambda": args.gae_lambda, "mask": mask}
        return compute_gae(scores.values, token_rewards, sampled.prefix_len, **options)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that at least one of k completions is right, from `correct` right ones among `samples`; unbiased.

    1 - C(samples - correct, k) / C(samples, k): of all ways to pick k of the samples, those with a right one (Chen et al.
    2021, eq. 1). The plain guess 1 - (1 - correct / samples)^k is too low on average.

    Raises:
        InputError: k is not between 1 and samples, or correct not between 0 and samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise InputError(
            f"pass@{k} of {samples} samples with {correct} right cannot be estimated; k must be between 1 and the number of "
            "samples, and no more can be right than were sampled"
        )
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority_vote(answers: Sequence[Hashable | None]) -> int | None:
    """Index of the first completion that gives the most frequent answer; None if no completion has an answer.

    `answers` are keys (rewards.answer_key), so that equal numbers are one answer; None is a completion without answer, which
    does not vote. Of equally frequent answers the one seen first wins.
    """
    return weighted_vote(answers, [1.0] * len(answers))


def weighted_vote(answers: Sequence[Hashable | None], weights: Sequence[float]) -> int | None:
    """Index of the first completion that gives the answer with the largest sum of weights; None if none has an answer.

    With weights of 1 this is the majority; with a verifier's probabilities each completion votes as loudly as it is trusted
    (Li et al. 2023). Ties go to the answer seen first.
    """
    totals: dict[Hashable, float] = defaultdict(float)
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] += weight
    if not totals:
        return None
    best = max(totals, key=lambda answer: totals[answer])  # the first of equals: dictionaries keep their order
    return list(answers).index(best)


def rerank(scores: Sequence[float]) -> int:
    """Index of the completion with the highest score, the first of equals (Cobbe et al. 2021, section 4).

    Raises:
        InputError: no scores.
    """
    if not scores:
        raise InputError("there is no completion to choose from; give at least one score")
    return max(range(len(scores)), key=lambda i: scores[i])


def first_reaching(history: list[dict[str, float | int | None]], name: str, level: float, window: int = 1) -> int | None:
    """Index of the first record from which a metric stays at or above a level for `window` records in a row; None if never.

    Records that lack the metric (or have None) are passed over: they neither count for the window nor end it. With the window
    above 1 a lucky phase is not taken for a change.
    """
    start, length = None, 0
    for i, record in enumerate(history):
        value = record.get(name)
        if value is None:
            continue
        if value < level:
            start, length = None, 0
            continue
        start, length = (i if start is None else start), length + 1
        if length == window:
            return start
    return None


def main() -> None:
    """Warm the bundled model up on worked solutions, then train it by ReFT; options are those of ReftArgs (--help)."""
    args = script_args(ReftArgs, "reasoning", recipe(ReftArgs, "reft-pocket"))
    ReftTrainer(args).train()


if __name__ == "__main__":
    main()
