"""The bundled word problems as a task: right or wrong is all that the reward says."""

import itertools
from collections.abc import Hashable

from rlhf_lib.rewards import answer_key, correctness_reward, extract_answer
from rlhf_lib.rewards.answers import extract_tagged
from rlhf_lib.tasks import pocket_text
from rlhf_lib.tasks.task import Prompts, Task

END_OF_ANSWER = "</s>"


class PocketTask(Task):
    """Word problems of one to four steps; the column "answer" holds the number."""

    name = "pocket"
    answer_form = "<answer>\n{}\n</answer>\n"
    reward_fns = (correctness_reward,)

    def draw(self, count: int, seed: int, phase: int) -> Prompts:
        """Training problems; each phase has its own stream."""
        stream = pocket_text.draw_problems("train", seed * 1_000_003 + phase)
        return as_prompts(list(itertools.islice(stream, count)))

    def held_out(self, count: int, few_shot: int = 0, style: str | None = None, split: str = "test") -> Prompts:
        """`count` different problems of the test split, with worked examples from the training split before each."""
        problems = pocket_text.fixed_problems(split, count)
        plain = as_prompts(problems)
        if not few_shot:
            return plain
        examples = pocket_text.fixed_problems("train", few_shot * count, seed=1)
        shots = [examples[i * few_shot : (i + 1) * few_shot] for i in range(count)]
        prompts = [
            "".join(worked_example(example, style or "reasoning") for example in group) + prompt
            for group, prompt in zip(shots, plain.prompts, strict=True)
        ]
        return Prompts(prompts, plain.columns)

    def worked(self, count: int) -> Prompts:
        """Different training problems with their solutions, reasoned step by step."""
        problems = pocket_text.fixed_problems("train", count)
        plain = as_prompts(problems)
        solutions = [pocket_text.answer_text(problem, "reasoning") for problem in problems]
        return Prompts(plain.prompts, {**plain.columns, "solution": solutions})

    def vote_of(self, completion: str) -> Hashable | None:
        """The number answered."""
        answer = extract_answer(completion)
        return None if answer is None else answer_key(answer)

    def is_correct(self, prompts: Prompts, completions: list[str]) -> list[bool]:
        """Which completions give the right answer."""
        return [self.matches(c, a) for c, a in zip(completions, prompts.columns["answer"], strict=True)]

    def readings(self, prompts: Prompts, completions: list[str]) -> dict[str, list[bool]]:
        """Every completion read three ways. well-formed: it has a closed <answer>. strict: the answer in it is right. lenient:
        strict, or its last number is right, wherever it stands."""
        pairs = list(zip(completions, prompts.columns["answer"], strict=True))
        strict = [self.matches(c, a, "xml") for c, a in pairs]
        lenient = [s or self.matches(c, a, "last") for s, (c, a) in zip(strict, pairs, strict=True)]
        return {"strict": strict, "lenient": lenient, "well-formed": [extract_tagged(c) is not None for c in completions]}

    def style_of(self, completion: str) -> str:
        """Which of pocket_text.STYLES an answer begins in."""
        if completion.startswith("<reasoning>"):
            return "reasoning"
        return "bare" if completion.startswith("<answer>") else "sentence"


def worked_example(problem: pocket_text.Problem, style: str) -> str:
    """A problem with its answer, ended as in the bundled model's documents."""
    return pocket_text.prompt_text(problem.question) + pocket_text.answer_text(problem, style) + END_OF_ANSWER


def as_prompts(problems: list[pocket_text.Problem]) -> Prompts:
    """Zero-shot prompts with their answers; the column "question" is what a reward model reads: the prompt without examples."""
    prompts = [pocket_text.prompt_text(problem.question) for problem in problems]
    return Prompts(prompts, {"answer": [str(problem.answer) for problem in problems], "question": prompts})
