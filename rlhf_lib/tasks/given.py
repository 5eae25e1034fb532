"""Prompts that Python passes as a task: GrpoArgs(prompts=[...], columns={...}, rewards=[...])."""

import random
from typing import Any

from rlhf_lib.args import InputError, PromptArgs, require
from rlhf_lib.args.given import Conversation
from rlhf_lib.rewards import answer_key, correctness_reward, extract_answer
from rlhf_lib.tasks.chat import render_chat
from rlhf_lib.tasks.task import Prompts, Task


class GivenPromptsTask(Task):
    """Texts as they are, conversations through the chat template; there are no held-out ones.

    The column "answer", where its values are texts or numbers, is what a completion is judged by, and what is rewarded where
    nothing else is asked for. The column "solution" is what fine-tuning reads.

    Args:
        args: prompts, columns, template_args.
        tokenizer: of the model.
        room: most tokens of a prompt; None: no limit.
    """

    name = "prompts"
    reward_fns = (correctness_reward,)

    def __init__(self, args: PromptArgs, tokenizer: Any = None, room: int | None = None):
        self.args, self.tokenizer = args, tokenizer
        given = list(args.prompts)
        columns = {name: list(column) for name, column in (args.columns or {}).items()}
        is_talk = not isinstance(given[0], str)
        texts = [self.rendered(i, prompt) for i, prompt in enumerate(given)] if is_talk else given
        self.all = Prompts(texts, columns, [list(prompt) for prompt in given] if is_talk else None)
        for i, text in enumerate(texts if room is not None and tokenizer is not None else []):
            count = len(tokenizer(text)["input_ids"])
            require(
                count <= room,
                f"prompts[{i}] has {count} tokens, and gen_len leaves room for {room} in the model's context; shorten it, or "
                "lower gen_len",
            )

    def rendered(self, i: int, messages: Conversation) -> str:
        """A conversation as the model's chat template writes it."""
        require(
            getattr(self.tokenizer, "chat_template", None) is not None,
            f"prompts[{i}] is a conversation, and the model's tokenizer has no chat template; give texts, or an "
            "instruction-tuned model",
        )
        has_system = messages[0]["role"] == "system"
        turns, system = list(messages[has_system:]), messages[0]["content"] if has_system else ""
        require(len(turns) > 0, f"prompts[{i}] is a system message alone; add the user's")
        return render_chat(self.tokenizer, turns, system, self.args.template_arguments)

    def draw(self, count: int, seed: int, phase: int) -> Prompts:
        """Prompts in a random order, each once before any comes again."""
        rng, rows = random.Random(f"{seed}-{phase}"), []
        while len(rows) < count:
            rows += rng.sample(range(len(self.all)), len(self.all))
        return self.all.take(rows[:count])

    def worked(self, count: int) -> Prompts:
        """The first prompts, with the column "solution"."""
        require(
            "solution" in self.all.columns,
            "the prompts have no column solution to fine-tune on; give columns={'solution': ...}",
        )
        return self.all.slice(0, count)

    def vote_of(self, completion: str) -> Any:
        """What the completion answers."""
        answer = extract_answer(completion)
        return None if answer is None else answer_key(answer)

    def is_correct(self, prompts: Prompts, completions: list[str]) -> list[bool]:
        """Which completions give the right answer."""
        answers = prompts.columns["answer"]
        strange = next((answer for answer in answers if not isinstance(answer, (str, int, float))), None)
        if strange is not None:
            raise InputError(f"answer {strange!r:.60} is neither text nor number; name that column otherwise, such as target")
        return [self.matches(text, str(answer)) for text, answer in zip(completions, answers, strict=True)]

    def verdicts(self, prompts: Prompts, completions: list[str]) -> list[bool] | None:
        """Which completions give the right answer; None where the answers are neither texts nor numbers."""
        is_plain = all(isinstance(answer, (str, int, float)) for answer in prompts.columns.get("answer", [None]))
        return self.is_correct(prompts, completions) if is_plain else None
