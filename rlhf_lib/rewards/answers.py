"""Find the answer in a completion and compare it with the reference, as numbers.

One extractor a convention, one comparison for all, and one entry, `answers_match`, that evaluation and rewards share.
Nothing is ever evaluated as code, and all work is bounded: benchmarks/answers.py measures what hostile completions cost.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from rlhf_lib.args import InputError

LONGEST_ANSWER = 200  # characters of an answer that are looked at
LONGEST_TAIL = 4000  # characters at the end of a completion in which a last number is looked for
LARGEST_EXPONENT = 300

PLAIN = re.compile(
    r"(?<![0-9.])[-+−]?(?:\$\s?)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]{1,4})?"
    r"(?:\s?/\s?[0-9]+)?|(?<![0-9.])[-+−]?\$?\.[0-9]+(?:[eE][-+]?[0-9]{1,4})?"
)
SAYS = re.compile(r"the\s+(?:final\s+)?answer\s+is:?\s*", re.IGNORECASE)
LETTER = re.compile(  # "a" is an article too, so that it needs a bracket, a stop or the line's end after it
    r"[\s*_(\[{$\\]*(?:(?:option|choice|text|textbf|mathrm)\b[\s({\[*]*)?"
    r"(?:([B-Eb-e])\b(?!')|([Aa])(?=\s*(?:[)\].:,*}$]|\n|$)))",
    re.IGNORECASE,
)
LONE_LETTER = re.compile(r"[(\[]\s*([A-Ea-e])\s*[)\]]|\b(?:option|choice)\s+([A-Ea-e])\b", re.IGNORECASE)


def extract_tagged(completion: str) -> str | None:
    """The text between the last </answer> and the last <answer> before it; None without such a pair."""
    end = completion.rfind("</answer>")
    start = completion.rfind("<answer>", 0, end) if end >= 0 else -1
    return completion[start + len("<answer>") : end] if start >= 0 else None


def extract_hashes(completion: str) -> str | None:
    """What follows the last #### on its line (GSM8K's convention); None without ####."""
    start = completion.rfind("####")
    return completion[start + 4 :].split("\n", 1)[0] if start >= 0 else None


def extract_boxed(completion: str) -> str | None:
    r"""The text inside the last \boxed{...}, braces balanced."""
    start = completion.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for position in range(start, min(len(completion), start + LONGEST_ANSWER)):
        depth += {"{": 1, "}": -1}.get(completion[position], 0)
        if depth == 0:
            return plain_latex(completion[start:position])
    return None


def plain_latex(text: str) -> str:
    r"""A boxed answer without LaTeX's ways of writing numbers: \frac{1}{2} is 1/2, 1{,}000 and 1\,000 are 1,000 and 1000."""
    text = re.sub(r"\\[dt]?frac\{([^{}]{1,40})\}\{([^{}]{1,40})\}", r"\1/\2", text)
    return text.replace("{,}", ",").replace("\\,", "").replace("\\!", "")


def extract_said(completion: str) -> str | None:
    """The number that follows the last "the answer is"."""
    tail = completion[-LONGEST_TAIL:]
    starts = [said.end() for said in SAYS.finditer(tail)]
    if not starts:
        return None
    number = PLAIN.search(tail, starts[-1], min(len(tail), starts[-1] + LONGEST_ANSWER))
    return number.group() if number else None


def extract_last_number(completion: str) -> str | None:
    """The last number of the text."""
    numbers = PLAIN.findall(completion[-LONGEST_TAIL:])
    return numbers[-1] if numbers else None


def option_letter(answer: str) -> str | None:
    """The option that an extracted answer names, in lower case: "(C)", "c ) 27.5", "option c" and "c" are all c; else None."""
    match = LETTER.match(answer[:LONGEST_ANSWER])
    return (match[1] or match[2]).lower() if match else None


def is_option(reference: str) -> bool:
    """Whether a reference is an option's letter: "c", "(C)"."""
    return len(reference.strip(" ()")) == 1 and option_letter(reference) is not None


def extract_letter(completion: str) -> str | None:
    """The letter of the option chosen: in the last closed <answer>, after ####, boxed, or said; else the last "(c)" or
    "option c" of the text. A word such as "a" is no choice."""
    tail = completion[-LONGEST_TAIL:]
    said = [tail[match.end() : match.end() + LONGEST_ANSWER] for match in SAYS.finditer(tail)]
    places = (extract_tagged(completion), extract_hashes(completion), extract_boxed(completion), *said[-1:])
    found = (option_letter(place) for place in places if place is not None)
    named = next((letter for letter in found if letter is not None), None)
    if named is not None:
        return named
    lone = [one or other for one, other in LONE_LETTER.findall(tail)]
    return lone[-1].lower() if lone else None


CONVENTIONS: dict[str, Callable[[str], str | None]] = {
    "xml": extract_tagged,
    "hashes": extract_hashes,
    "boxed": extract_boxed,
    "said": extract_said,
    "last": extract_last_number,
}
LETTERS = {"letter": extract_letter}  # for multiple choice; asked for by name, or by a reference that is a letter


def extract_answer(completion: str, convention: str = "any") -> str | None:
    """The answer of a completion under one convention; "any" takes the first of CONVENTIONS, in order, that finds one.

    Raises:
        InputError: a convention that does not exist.
    """
    if convention == "any":
        found = (extract(completion) for extract in CONVENTIONS.values())
        return next((answer.strip() for answer in found if answer is not None), None)
    known = {**CONVENTIONS, **LETTERS}
    if convention not in known:
        raise InputError(f"convention={convention!r} does not exist; use any, {', '.join(known)}")
    answer = known[convention](completion)
    return None if answer is None else answer.strip()


def parse_number(text: str) -> Fraction | None:
    """The number that an answer states: 18, 18., $18.00, 1,000, -3, 1/2, 50%, "18 dollars", 1e3; None if it states none.

    Percent signs, currency and units are dropped: 50% is 50. Of several numbers the first counts; the printed
    minus sign is one too. None too for a text longer
    than LONGEST_ANSWER, an exponent beyond LARGEST_EXPONENT either way, and a fraction over 0; no text raises an error.
    """
    match = PLAIN.search(text[:LONGEST_ANSWER])
    if match is None or len(text) > LONGEST_ANSWER:
        return None
    number = re.sub(r"[\s$,]", "", match.group()).replace("−", "-")
    numerator, _, denominator = number.partition("/")
    exponent = re.search(r"[eE]([-+]?[0-9]+)$", numerator)
    if exponent and abs(int(exponent.group(1))) > LARGEST_EXPONENT:
        return None
    try:
        return Fraction(numerator.removesuffix(".")) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None


def answer_key(answer: str) -> Fraction | str | None:
    """What two equal answers have in common: the number if there is one, else the text without case and surrounding space.

    None for a text that is empty or longer than LONGEST_ANSWER: it equals nothing, not even itself.
    """
    number = parse_number(answer)
    if number is not None:
        return number
    text = answer.strip().casefold()
    return text if text and len(answer) <= LONGEST_ANSWER else None


def same_answer(first: str, second: str) -> bool:
    """Whether two extracted answers are equal: as numbers if both are, else letter by letter without case."""
    key = answer_key(first)
    return key is not None and key == answer_key(second)


def answers_match(completion: str, reference: str, convention: str = "any") -> bool:
    """Whether a full completion gives the answer of the reference, which may be a bare answer or a worked solution.

    `convention` is about the completion: "any" looks for, in this order, the last closed <answer>, ####, boxed, "the answer
    is", the last number. A reference that is an option's letter, such as "c" or "(C)", asks for a letter in all of these.
    """
    if is_option(reference):
        answer = extract_answer(completion, "letter" if convention == "any" else convention)
        return answer is not None and option_letter(answer) == option_letter(reference)
    answer = extract_answer(completion, convention)
    expected = extract_answer(reference)
    return answer is not None and same_answer(answer, reference if expected is None else expected)
