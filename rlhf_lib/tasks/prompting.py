"""From a problem to a prompt, and to the solution that fine-tuning imitates: plain text, chat template, or XML."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf_lib.args import InputError
from rlhf_lib.models.lengths import token_count
from rlhf_lib.tasks.chat import render_chat

CHAT_SYSTEM = "Solve the problem step by step. End with the answer on a line of its own: #### and the answer."
XML_SYSTEM = """Respond in the following format:
<reasoning>
...
</reasoning>
<answer>
...
</answer>"""
NEXT_QUESTION = "\nQuestion:"
"""Where a model without instructions goes on with a question of its own; what follows is not its answer."""


@dataclass(frozen=True)
class WordProblem:
    """A question, its worked solution (chain of thought, without the answer's line), and the answer alone."""

    question: str
    solution: str
    answer: str


def solution_text(problem: WordProblem, style: str) -> str:
    """The worked solution as the model is to write it in a prompt style of args.PromptStyle."""
    if style == "xml":
        return f"<reasoning>\n{problem.solution}\n</reasoning>\n<answer>\n{problem.answer}\n</answer>\n"
    return f"{problem.solution}\n#### {problem.answer}"


def question_text(question: str) -> str:
    """A question in plain text; the answer begins on the next line."""
    return f"Question: {question}\nAnswer:\n"


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


def build_chat_prompt(
    question: str,
    examples: list[tuple[str, str]],
    room: int,
    tokenizer: Any,
    system: str,
    arguments: dict[str, Any] | None = None,
) -> str:
    """The tokenizer's chat template of a system prompt, worked examples as earlier turns, and the question.

    Examples are left out from the front until the prompt has at most `room` tokens. `arguments` are the template's own, such as
    {"enable_thinking": False}. Where the system prompt goes, and what is refused: see chat.render_chat.
    """

    def text(shots: list[tuple[str, str]]) -> str:
        turns = [turn for q, s in shots for turn in ({"role": "user", "content": q}, {"role": "assistant", "content": s})]
        return render_chat(tokenizer, [*turns, {"role": "user", "content": question}], system, arguments or {})

    shots, prompt = list(examples), text(examples)
    while shots and token_count(tokenizer, prompt, room) > room:
        shots = shots[1:]
        prompt = text(shots)
    return prompt


def system_text(style: str, given: str | None) -> str:
    """The instructions of prompt style chat or xml, or those given in their place."""
    return (CHAT_SYSTEM if style == "chat" else XML_SYSTEM) if given is None else given


def build_prompt(
    question: str,
    examples: list[tuple[str, str]],
    style: str,
    room: int,
    tokenizer: Any,
    *,
    system: str | None = None,
    arguments: dict[str, Any] | None = None,
) -> str:
    """The prompt of a question in a style of args.PromptStyle; `tokenizer` may be None where no chat template is asked for.

    `system` takes the place of the style's own instructions (CHAT_SYSTEM, XML_SYSTEM); `arguments` are the chat template's.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if style == "chat" and not has_template:
        raise InputError(
            "prompt_style='chat' needs a tokenizer with a chat template and this model's has none; use plain or xml, or an "
            "instruction-tuned model"
        )
    told = system_text(style, system)
    if style == "chat" or (style == "xml" and has_template):
        return build_chat_prompt(question, examples, room, tokenizer, told, arguments)
    if arguments:
        raise InputError(
            f"template_args {', '.join(arguments)} are for a chat template, which prompt_style={style!r} "
            f"{'of a model without one ' if style == 'xml' else ''}does not use; leave them out"
        )
    head = f"{told}\n\n" if style == "xml" and told else ""

    def count(text: str) -> int:
        return 0 if tokenizer is None else token_count(tokenizer, head + text, room)

    return head + build_few_shot_prompt(question, examples, room, count)


def cut_at_next_question(completion: str) -> str:
    """A completion up to where the model goes on with a question of its own."""
    return completion.split(NEXT_QUESTION, 1)[0]
