"""Answers that are no numbers, judged as mathematics by the package math-verify: 2\\sqrt{3} is \\sqrt{12}.

math-verify bounds its time by signals, which only a main thread gets, and some expressions take all memory. So it works in a
process of its own (symbolic_worker.py), which is ended and replaced when an answer takes longer than LONGEST_WAIT.
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, Timer
from typing import Any

from rlhf_lib.args import InputError
from rlhf_lib.rewards.answers import answers_match, extract_answer, is_option, parse_number, read_reference
from rlhf_lib.rewards.formats import text_of
from rlhf_lib.rewards.numbers import LONGEST_ANSWER

LONGEST_START = 120.0  # seconds until sympy is imported
LONGEST_WAIT = 5.0  # seconds for one comparison


class Judge:
    """A process that compares expressions; it starts with the first question and can be asked from any thread.

    Args:
        program: Python code that says "ready", and then "equal" or "different" to each JSON line [answer, reference].
    """

    def __init__(self, program: str):
        self.program = program
        self.process: subprocess.Popen | None = None
        self.lock = Lock()

    def start(self) -> None:
        """Start the process; an error where it does not."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # a session of its own: Ctrl-C is for us, and the end of its input ends it
        self.process = subprocess.Popen([sys.executable, "-c", self.program], text=True, start_new_session=True, **pipes)
        if self.line(LONGEST_START) != "ready":
            raise InputError("math-verify does not start; try `python -c 'import math_verify'`, or use rewards=correctness")

    def line(self, seconds: float) -> str:
        """What the process says next; an empty text from a process that is ended since it says nothing for so many seconds."""
        timer = Timer(seconds, self.process.kill)
        timer.start()
        try:
            return self.process.stdout.readline().strip()
        finally:
            timer.cancel()

    def equal(self, answer: str, reference: str) -> bool:
        """Whether two expressions in LaTeX are equal; False too where that is not known in time."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            said = ""
            with suppress(BrokenPipeError):
                print(json.dumps([answer, reference]), file=self.process.stdin, flush=True)
                said = self.line(LONGEST_WAIT)
            if not said:
                self.process.kill()
                self.process.wait()  # or the next question would go to a process that is about to end
            return said == "equal"


JUDGE = Judge(Path(__file__).with_name("symbolic_worker.py").read_text())


def require_math_verify() -> None:
    """An error where math-verify is not installed."""
    if find_spec("math_verify") is None:
        raise InputError(
            "rewards='symbolic_correctness' needs the package math-verify; pip install \"rlhf_lib[symbolic]\", or use"
            " correctness"
        )


def symbolic_match(completion: str, reference: str, convention: str = "any") -> bool:
    """answers_match, and where one of the two answers is no number, math-verify's verdict; options are letters and stay so.

    Raises:
        InputError: math-verify is needed and not installed, or the convention does not exist.
    """
    if answers_match(completion, reference, convention):
        return True
    answer, expected = extract_answer(completion, convention), read_reference(reference)
    if is_option(reference) or not answer or max(len(answer), len(expected)) > LONGEST_ANSWER:
        return False
    if parse_number(answer) is not None and parse_number(expected) is not None:
        return False
    require_math_verify()
    return JUDGE.equal(answer, expected)


def symbolic_correctness_reward(prompts: list, completions: list, answer: list[str], **columns: Any) -> list[float]:
    """1 for the right answer, compared as mathematics where it is no number, else 0. Needs math-verify."""
    return [float(symbolic_match(text_of(c), a)) for c, a in zip(completions, answer, strict=True)]
