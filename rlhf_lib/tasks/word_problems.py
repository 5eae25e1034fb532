"""Data sets of word problems as tasks: GSM8K, SVAMP, MathQA. A new one is a small class: where it is, and how a row reads."""

import math
import random
import re
import sys
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from rlhf_lib import parallel
from rlhf_lib.args import InputError, PromptArgs, require
from rlhf_lib.args.given import Conversation
from rlhf_lib.models.lengths import is_far_too_long, last_tokens
from rlhf_lib.rewards import XML_REWARDS, answer_key, correctness_reward, extract_answer, parse_number
from rlhf_lib.rewards.answers import extract_hashes, is_option
from rlhf_lib.rewards.formats import is_well_formed
from rlhf_lib.tasks.data_files import Reader, Row, load_splits, plain_text, text_in
from rlhf_lib.tasks.prompting import WordProblem, build_prompt, cut_at_next_question, solution_text, system_text
from rlhf_lib.tasks.task import Prompts, Task
from rlhf_lib.terminal import visible

VALIDATION = 100  # training problems that data without a validation split gives for watching a run


class WordProblemTask(Task):
    """Subclass with `name`, `hub_name` and `read`; see Gsm8kTask. Splits are kept apart: nothing trains on the test split.

    Args:
        args: data, prompt_style, system_prompt, template_args, few_shot.
        tokenizer: of the model; needed by chat templates, and to keep prompts within the context.
        room: most tokens of a prompt; None: no limit.
    """

    hub_name: str
    hub_config: str | None = None
    unsplit_train = 0
    """Of a data set without splits, so many first rows are for training and the rest for testing."""

    def __init__(self, args: PromptArgs | None = None, tokenizer: Any = None, room: int | None = None):
        self.args = PromptArgs() if args is None else args
        self.tokenizer, self.room = tokenizer, room
        xml = self.args.prompt_style == "xml"
        self.reward_fns = XML_REWARDS if xml else (correctness_reward,)
        self.reward_weights = (1.0,) * len(self.reward_fns)

    @abstractmethod
    def read(self, row: Mapping[str, Any]) -> WordProblem:
        """A row of the data set as a problem."""

    @cached_property
    def splits(self) -> dict[str, list[WordProblem]]:
        """All problems by split."""
        reader = Reader(self.args.skip_bad_rows, self.args.columns_of_data)
        splits = load_splits(self.args.data, self.hub_name, self.hub_config, reader)
        rows = splits.pop("all", None)
        if rows is not None and not splits:
            first = self.unsplit_train
            splits = {"train": rows[:first], "test": rows[first:]} if first else {"test": rows}
        read = {split: [self.read_row(row, reader) for row in rows] for split, rows in splits.items()}
        found = {split: [problem for problem in problems if problem is not None] for split, problems in read.items()}
        found = {split: problems for split, problems in found.items() if problems}
        for told in (reader.report, repeats(found)):
            if told is not None and parallel.is_first():
                print(visible(f"data={self.args.data or self.hub_name!r}: {told}"), file=sys.stderr)
        train, watched = found.get("train", []), getattr(self.args, "eval_every", 0) > 0
        if watched and "validation" not in found and len(train) >= 10 * VALIDATION:
            found["train"], found["validation"] = train[:-VALIDATION], train[-VALIDATION:]
        return found

    def read_row(self, row: Row, reader: Reader) -> WordProblem | None:
        """A row as a problem; a bad one is refused by `reader`, with where it stands, and None where that leaves it out."""
        try:
            problem = self.read(row)
            plain_text(problem.question, "the question")
            plain_text(problem.answer, "the answer")
            return problem
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no column {error}" if isinstance(error, KeyError) else str(error)
            reader.refuse(row.origin, f"{what}; task={self.name} reads the format of {self.hub_name}")
            return None

    def problems(self, split: str) -> list[WordProblem]:
        """The problems of a split; an error where the data has none."""
        if not self.splits.get(split):
            source, remedy = f"data={self.args.data or self.hub_name!r}", f"or leave data out for {self.hub_name}"
            if not self.splits:
                raise InputError(
                    f"{source} has no row that can be used; give a file of such rows as {self.hub_name} has, {remedy}"
                )
            raise InputError(
                f"{source} has no {split} split (it has {', '.join(self.splits)}); give a folder with a file named "
                f"{split}.jsonl, {remedy}"
            )
        return self.splits[split]

    @cached_property
    def examples(self) -> list[WordProblem]:
        """The worked examples of every prompt: the same few, drawn once from the training split."""
        count = self.args.few_shot
        if not count:
            return []
        train = self.problems("train")
        require(count <= len(train), f"few_shot={count} is more than the {len(train)} training problems; use fewer")
        return random.Random("examples").sample(train, count)

    def prompt(self, problem: WordProblem) -> str:
        """The prompt of a problem; it never holds the problem itself as an example."""
        args, style = self.args, self.args.prompt_style
        shots = [(shot.question, solution_text(shot, style)) for shot in self.examples if shot.question != problem.question]
        told = {"system": args.system_prompt, "arguments": args.template_arguments}
        return build_prompt(problem.question, shots, style, self.room or 10**9, self.tokenizer, **told)

    def examples_in(self, prompts: Prompts) -> list[int]:
        """How many of the worked examples each prompt had room for."""
        return [sum(shot.question in prompt for shot in self.examples) for prompt in prompts.prompts]

    def fits(self, prompt: str) -> bool:
        """Whether a prompt leaves the completion its room in the context."""
        if self.room is None or self.tokenizer is None:
            return True
        return not is_far_too_long(prompt, self.room) and len(self.tokenizer(prompt)["input_ids"]) <= self.room

    def as_prompts(self, problems: list[WordProblem]) -> Prompts:
        """Prompts of problems, with the columns that rewards and fine-tuning read."""
        columns = {
            "answer": [problem.answer for problem in problems],
            "question": [problem.question for problem in problems],
            "solution": [solution_text(problem, self.args.prompt_style) for problem in problems],
        }
        messages = None if self.args.prompt_style == "plain" else [self.messages(problem) for problem in problems]
        return Prompts([self.prompt(problem) for problem in problems], columns, messages)

    def messages(self, problem: WordProblem) -> Conversation:
        """The prompt as messages, for reward functions: system text and question; worked examples are left out.

        Styles chat and xml are conversations also where the model has no chat template.
        """
        system = system_text(self.args.prompt_style, self.args.system_prompt)
        head = [{"role": "system", "content": system}] if system else []
        return [*head, {"role": "user", "content": problem.question}]

    def draw(self, count: int, seed: int, phase: int) -> Prompts:
        """Training problems whose prompts fit the context, with replacement between phases and without within one."""
        rng, train, found = random.Random(f"{seed}-{phase}"), self.problems("train"), []
        for problem in rng.sample(train, len(train)):
            if self.fits(self.prompt(problem)):
                found.append(problem)
            if len(found) == count:
                return self.as_prompts(found)
        raise InputError(
            f"{len(found)} of {len(train)} training problems leave room for the completion in the model's context and a phase "
            f"needs {count} different ones; lower few_shot, gen_len or the number of prompts, or take another model"
        )

    def worked(self, count: int) -> Prompts:
        """The first training problems; the column "solution" has their worked solutions."""
        return self.as_prompts(self.problems("train")[:count])

    def held_out(self, count: int, few_shot: int = 0, style: str | None = None, split: str = "test") -> Prompts | None:
        """The first problems of a split; a prompt that is too long for the context loses its beginning.

        None for a validation split that there is not: data without one gives its last VALIDATION training problems where the
        arguments ask for accuracy during training (eval_every) and enough are left. `few_shot` and `style` are those of the
        task's own arguments here.
        """
        if split == "validation" and split not in self.splits:
            return None
        prompts = self.as_prompts(self.problems(split)[:count])
        return replace(prompts, prompts=[self.cut_to_fit(prompt) for prompt in prompts.prompts])

    def cut_to_fit(self, prompt: str) -> str:
        """A prompt's last tokens, as many as there is room for."""
        if self.fits(prompt):
            return prompt
        ids = last_tokens(self.tokenizer, prompt, self.room - 2)  # decoding and encoding again may add a token
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    @cached_property
    def spaces_texts(self) -> bool:
        """Whether the tokenizer puts a space before every text, as SentencePiece does."""
        if self.tokenizer is None:
            return False
        one = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return self.tokenizer.decode(one + one, clean_up_tokenization_spaces=False) == "a a"

    def cut(self, completion: str) -> str:
        """What of a completion is its answer.

        The space before it is the tokenizer's where that puts one before every text: formats begin without it, and an answer
        that is tokenised again gets it again.
        """
        answer = cut_at_next_question(completion)
        return answer.removeprefix(" ") if self.spaces_texts else answer

    def is_correct(self, prompts: Prompts, completions: list[str]) -> list[bool]:
        """Which completions give the right answer."""
        return [self.matches(self.cut(c), a) for c, a in zip(completions, prompts.columns["answer"], strict=True)]

    def readings(self, prompts: Prompts, completions: list[str]) -> dict[str, list[bool]]:
        """Every completion read three ways, as harnesses report them.

        well-formed: it follows the prompt style's format (xml: the tags once each and nothing around them; else an answer after
        ####). strict: it does, and the answer that stands there is right. lenient: strict, or its last number is right (last
        letter, of multiple choice), wherever it stands.
        """
        xml, texts, answers = self.args.prompt_style == "xml", [self.cut(c) for c in completions], prompts.columns["answer"]
        formed = [is_well_formed(text) if xml else extract_hashes(text) is not None for text in texts]
        place = "xml" if xml else "hashes"
        strict = [f and self.matches(t, a, place) for f, t, a in zip(formed, texts, answers, strict=True)]
        last = [self.matches(t, a, "letter" if is_option(a) else "last") for t, a in zip(texts, answers, strict=True)]
        lenient = [s or right for s, right in zip(strict, last, strict=True)]
        return {"strict": strict, "lenient": lenient, "well-formed": formed}

    @property
    def answer_form(self) -> str:
        """As in a worked solution of the prompt style."""
        return solution_text(WordProblem("", "", "{}"), self.args.prompt_style).rpartition("\n</reasoning>\n")[2].lstrip()

    def vote_of(self, completion: str) -> Any:
        """What the completion answers, for voting."""
        answer = extract_answer(self.cut(completion))
        return None if answer is None else answer_key(answer)

    def style_of(self, completion: str) -> str | None:
        """Whether a completion follows the XML format, where that is asked for."""
        if self.args.prompt_style != "xml":
            return None
        return "reasoning" if "<reasoning>" in completion else "sentence"


class Gsm8kTask(WordProblemTask):
    """Grade-school word problems (Cobbe et al. 2021): 7,473 for training, 1,319 for testing."""

    name = "gsm8k"
    hub_name, hub_config = "openai/gsm8k", "main"

    def read(self, row: Mapping[str, Any]) -> WordProblem:
        """The answer's last line is "#### 42"; calculator notes such as <<48/2=24>> are taken out. It may be a number alone."""
        solution, mark, answer = text_in(row, "answer").rpartition("####")
        if not mark and not is_number(answer):
            raise ValueError("answer has no line '#### ANSWER' at its end, nor is it a number alone")
        return WordProblem(text_in(row, "question"), re.sub(r"<<[^<>]*>>", "", solution).strip(), answer.strip())


class SvampTask(WordProblemTask):
    """One-step word problems with changed wording (Patel et al. 2021); unsplit data has 700 for training."""

    name = "svamp"
    hub_name = "ChilleD/SVAMP"
    unsplit_train = 700

    def read(self, row: Mapping[str, Any]) -> WordProblem:
        """The equation is the only solution there is."""
        number = parse_number(text_in(row, "Answer"))
        if number is None:
            raise ValueError(f"Answer {row['Answer']!r} is no number")
        answer = str(number) if number.denominator == 1 else repr(float(number))
        body = text_in(row, "Body")
        body = body if body.endswith((".", "?", "!", ",")) else f"{body}."
        return WordProblem(f"{body} {text_in(row, 'Question')}", f"{text_in(row, 'Equation')} = {answer}", answer)


class MathQaTask(WordProblemTask):
    """Multiple-choice problems (Amini et al. 2019); the answer is an option's letter."""

    name = "mathqa"
    hub_name = "regisss/math_qa"  # parquet; the original is a script, which `datasets` no longer runs

    def read(self, row: Mapping[str, Any]) -> WordProblem:
        """The hub's columns (Problem, options, Rationale, correct), or a question with its options and an answer_value."""
        if "Problem" not in row:
            reason = text_in(row, "rationale") if row.get("rationale") else ""
            return WordProblem(text_in(row, "question"), reason, text_in(row, "answer_value"))
        asked = f"{text_in(row, 'Problem')}\n{text_in(row, 'options')}"
        return WordProblem(asked, text_in(row, "Rationale"), text_in(row, "correct"))

    def vote_of(self, completion: str) -> str | None:
        """The option's letter."""
        return extract_answer(self.cut(completion), "letter")


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    try:
        return math.isfinite(float(text.replace(",", "")))
    except ValueError:
        return False


def repeats(splits: dict[str, list[WordProblem]]) -> str | None:
    """How many questions of the other splits training has too, in words; None without any."""
    train = {problem.question for problem in splits.get("train", [])}
    counts = {split: sum(p.question in train for p in problems) for split, problems in splits.items() if split != "train"}
    told = [f"{count} of {len(splits[split])} {split} questions" for split, count in counts.items() if count]
    return f"{' and '.join(told)} are training questions too" if told else None
