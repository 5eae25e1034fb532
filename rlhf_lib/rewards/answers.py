r"""Find the answer in a completion and compare it with the reference, as numbers.

One extractor a convention, one grammar (`numbers`) and one comparison for all, and one entry, `answers_match`, that evaluation
and rewards share. Nothing is ever evaluated as code, and all work is bounded: benchmarks/answers.py measures what hostile
completions cost.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from rlhf_lib.args import InputError
from rlhf_lib.rewards.numbers import LARGEST_EXPONENT, LONGEST_ANSWER, NUMBER, bare, first_stated, last_stated, plain

LONGEST_TAIL = 4000  # characters at the end of a completion in which an answer without a mark is looked for
MOST_HASHES = 16  # the last so many #### are looked at

HEADING = re.compile(r"\W*(?:(?:step|part)\b|[0-9]{1,2} ?[.):] ?[^\W\d])", re.IGNORECASE)
ANSWERING = re.compile(
    r"[0-9]|\\boxed|\banswer\s+is\b", re.IGNORECASE
)  # where this follows a text after ####, it was a heading
SAYS = re.compile(
    r"(?<![\w/])(?:answer|(?:correct|right|best)\s+(?:option|choice))"
    r"(?:\s+(?:is|(?:should|must|would)\s+be)\b|[*_]{0,3}:|\s*=)(?P<gap>[\s:*_]*)",
    re.IGNORECASE,
)
LIST_MARK = re.compile(r"[-+] +(?=\S)")
NEGATED = re.compile(r"not\b[^,;\n]*?(?:[,;]|\bbut\b)\s*(?:but\b\s*)?", re.IGNORECASE)  # not 42, it is 43
REASON = re.compile(r"[,;]?\s+(?:because|since)\b", re.IGNORECASE)
SENTENCE = re.compile(r"(?:[^\n]*:[ *_]*\n\s*)?(?:[^\n.!?]|[.!?](?!\s+[^\W\d]|\s*$))*\.?")
OPTIONS = "A-Ja-j"  # ten, as in MMLU-Pro
NO_OPTION = (  # after a letter: a possessive, an abbreviation, an operator, another option
    r"(?!['’(#^/]|\.[a-z]\.|-\w|\*\w|\+| *[\^=+]| *[<>](?![/|])|\s\*\s"
    rf"|\s*(?:\band\b|\bor\b|&)\s*[(\[]?[{OPTIONS}]\b|\s*[,;]\s*[(\[]?[{OPTIONS}]\b(?!\s+\w))"
)
CHOSEN = (  # "a" is an article and "I" a pronoun, so that they need a bracket, a stop, a reason or the line's end after them
    rf"(?:([B-HJb-hj])\b{NO_OPTION}"
    rf"|([AaIi])\b{NO_OPTION}(?=\s*(?:[)\].:,*}}$<]|\n|$|(?:because|since|is\s+(?:correct|right))\b)))"
)
LETTER = re.compile(
    rf"[\s*_(\[{{$\\]*(?:(?:option|choice|text|textbf|mathrm)\b[\s({{\[*]*)?{CHOSEN}",
    re.IGNORECASE,
)
LONE_LETTER = re.compile(
    rf"[(\[]\s*([{OPTIONS}])\s*[)\]]|\b(?:option|choice)\s+([{OPTIONS}])\b"
    rf"|(?<!not )(?<!n't )\b(?:choose|pick|select|answer|it'?s|it is|which is)\s+{CHOSEN}"
    rf"|\b([{OPTIONS}]) is (?:the )?(?:correct|right|best)\b",
    re.IGNORECASE,
)
REJECTED = re.compile(rf"[(\[]\s*[{OPTIONS}]\s*[)\]]\W{{0,3}}(?:is )?(?:no|not|wrong|false|incorrect)\b", re.IGNORECASE)
LETTER_LINE = re.compile(rf"[\s*_(\[{{$>#-]*([{OPTIONS}])(?:[\s*_)\]}}$.:]*|[*_]{{0,2}}[).:\]][\s*_].*)")
TYPESET = (  # ways to write one expression: \sqrt{3} and \sqrt3, \frac{x}{2} and x/2, 3:30 p.m. and 3:30pm
    (re.compile(r"(?<![\w^}])\\frac\{(\w+|\\[a-z]+)\}\{(\w+|\\[a-z]+)\}(?!\w)"), r"\1/\2"),
    (re.compile(r"(?<=[^\s\w])\{([0-9]+|[a-z])\}(?!\w)|(?<=sqrt)\{([0-9]+)\}(?!\w)"), r"\1\2"),
    (re.compile(r"(?<=[0-9]) ?([ap])\.? ?m\b\.?"), r"\1m"),
    (re.compile(r"(?<=[a-z]) and (?=[0-9])"), " "),
)
PUNCTUATED = re.compile(r"\s*([^\w\s])\s*")
EDGES = " .,;:!?*_`\"'$"


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


def is_heading(line: str) -> bool:
    """Whether a line after #### could be a heading: it states no number and no option, or is itself numbered."""
    return HEADING.match(line) is not None or (parse_number(line) is None and not is_option(line))


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
            return plain(completion[start:position])
    return None


def extract_said(completion: str) -> str | None:
    """What follows the last "the answer is": the first number of the sentence, or the sentence, before its reason.

    "not 42, it is 43" says 43, and "not 42" no number.
    """
    said = after_cue(completion[-LONGEST_TAIL:])
    if said is None:
        return None
    sentence = SENTENCE.match(said)[0]
    answer = REASON.split(sentence, maxsplit=1)[0]
    return first_stated(answer) or answer


def after_cue(tail: str) -> str | None:
    """The text after the last "the answer is", without a list's mark and what it says the answer is not; None without one."""
    said = [*SAYS.finditer(tail)][-1:]
    if not said:
        return None
    text = tail[said[0].end() : said[0].end() + LONGEST_ANSWER]
    if "\n" in said[0]["gap"]:
        text = LIST_MARK.sub("", text, count=1) if LIST_MARK.match(text) else text
    negated = NEGATED.match(text)
    return text[negated.end() :] if negated else text


def extract_last_number(completion: str) -> str | None:
    """The last number of the text, or the expression that its last number is a part of."""
    return last_stated(completion[-LONGEST_TAIL:])


def option_letter(answer: str) -> str | None:
    """The option that an extracted answer names, in lower case: "(C)", "c ) 27.5", "option c" and "c" are all c; else None."""
    match = LETTER.match(answer[:LONGEST_ANSWER])
    return (match[1] or match[2]).lower() if match else None


def is_option(reference: str) -> bool:
    """Whether a reference is an option's letter: "c", "(C)"."""
    return len(reference.strip(" ()")) == 1 and option_letter(reference) is not None


def extract_letter(completion: str) -> str | None:
    """The letter of the option chosen: in the last closed <answer>, after ####, boxed, or said; else alone on the last line;
    else the last "(c)" or "option c" of the text; else alone on the first line. A word such as "a" is no choice."""
    tail = REJECTED.sub("", completion[-LONGEST_TAIL:])
    places = (extract_tagged(completion), extract_hashes(completion), extract_boxed(completion), after_cue(tail))
    found = (option_letter(place) for place in places if place is not None)
    named = next((letter for letter in found if letter is not None), None)
    if named is not None:
        return named
    lines = [line[:LONGEST_ANSWER] for line in (tail.strip().split("\n") if tail.strip() else [""])]
    first, last = (LETTER_LINE.fullmatch(line) for line in (lines[0], lines[-1]))
    lone = ["".join(groups) for groups in LONE_LETTER.findall(tail)]
    letters = [*([first[1]] if first else []), *lone, *([last[1]] if last else [])]
    return letters[-1].lower() if letters else None


MARKS: dict[str, Callable[[str], str | None]] = {
    "xml": extract_tagged,
    "hashes": extract_hashes,
    "boxed": extract_boxed,
    "said": extract_said,
}
CONVENTIONS = {**MARKS, "last": extract_last_number}
LETTERS = {"letter": extract_letter}  # for multiple choice; asked for by name, or by a reference that is a letter


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


def as_text(answer: str) -> str:
    """An answer that is no number, for comparison: without LaTeX, case, and the space and punctuation around it."""
    text = PUNCTUATED.sub(r"\1", plain(answer).casefold())
    for pattern, instead in TYPESET:
        text = pattern.sub(instead, text)
    text = text.strip(EDGES)
    return text or answer.strip().casefold()


def answer_key(answer: str) -> Fraction | str | None:
    """What two equal answers have in common: the number if there is one, else the text (as_text).

    None for a text that is empty or longer than LONGEST_ANSWER: it equals nothing, not even itself.
    """
    number = parse_number(answer)
    if number is not None:
        return number
    return as_text(answer) or None if len(answer) <= LONGEST_ANSWER else None


def same_answer(first: str, second: str) -> bool:
    """Whether two extracted answers are equal: as numbers if both are, else as texts."""
    key = answer_key(first)
    return key is not None and key == answer_key(second)


def read_reference(reference: str) -> str:
    """The answer of a reference: what it marks; else the last number of several lines, a worked solution; else all of it."""
    worked = "\n" in reference.strip()
    found = extract_answer(reference) if worked else marked_answer(reference)
    return found or reference


def is_literal(completion: str, reference: str) -> bool:
    """Whether a completion is the reference letter by letter, with #### before it or without; space around it aside."""
    text, whole = completion.strip(), reference.strip()
    if not whole:
        return reference != "" and completion == f"#### {reference}"
    return whole in (text, text.removeprefix("####").strip())


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
