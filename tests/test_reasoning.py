"""Checkers of chapters/6_reasoning.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import itertools
import time
from fractions import Fraction
from functools import cache

import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from rlhf_lib.args import ReftArgs
from rlhf_lib.course import expect
from rlhf_lib.course.agree import agree
from rlhf_lib.course.expect import Wrong
from rlhf_lib.course.student import Handle
from rlhf_lib.course.twins import disturb, twin_of
from rlhf_lib.models import TransformerWithValueHead
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.rewards.shaping import reft_reward
from rlhf_lib.tasks import make_task

NAMES = ("Anna", "Tom", "Mia", "Max", "Lea", "Ben")
THINGS = ("apples", "pears", "books", "coins", "stamps")
INFINITY, NAN = float("inf"), float("nan")
SECONDS = 5  # of computing for hostile texts; bounded work needs thousandths


def fields(student, result, *names):
    """Attributes of a result; messages go on naming the call that gave it."""
    called = student.called
    found = [student.call(name, on=result) for name in names]
    student.called = called
    return found


def pick(student, options):
    """One of some options."""
    return options[int(student.integers(0, len(options), 1))]


def shuffled(student, items):
    """Items in a random order."""
    return [items[i] for i in torch.randperm(len(items), generator=student.inputs)]


def numbers(student, count, low=2, high=900):
    """Different whole numbers, in a random order."""
    return (low + torch.randperm(high - low, generator=student.inputs)[:count]).tolist()


def sentence(student):
    """A line of reasoning about nothing in particular."""
    a, b = numbers(student, 2, 2, 20)
    return f"{pick(student, NAMES)} has {a} {pick(student, THINGS)} and gets {b}: {a} + {b} = {a + b}"


def xml(reasoning, answer, end="\n"):
    """A completion in the recipe's format."""
    return f"<reasoning>\n{reasoning}\n</reasoning>\n<answer>\n{answer}\n</answer>{end}"


def brief(text):
    """A text as messages show it."""
    return repr(text) if len(text) <= 160 else f"{text[:80]!r}... ({len(text)} characters)"


# tagged_and_hashes


def compare_text(student, name, text, expected):
    """What an extractor finds in a text, surrounding space aside."""
    got = student.call(name, text)
    got = got.strip() if isinstance(got, str) else got
    expect.equal(got, expected, f"extract from {brief(text)}")


def test_tagged_and_hashes__the_last_closed_pair(student):
    """extract_tagged gives what stands between the last <answer> that is closed and its </answer>."""
    a, b = numbers(student, 2)
    name = "extract_tagged"
    compare_text(student, name, f"<answer>{a}</answer>", f"{a}")
    compare_text(student, name, xml(sentence(student), f"{a}\n{b}"), f"{a}\n{b}")
    compare_text(student, name, f"<answer>{a}</answer> no, <answer>{b}</answer>", f"{b}")
    compare_text(student, name, f"<answer>{a}</answer>, or is it {b}?", f"{a}")


def test_tagged_and_hashes__tags_left_open(student):
    """An <answer> that is never closed is passed over, before the last closed pair, within it or after it."""
    a, b = numbers(student, 2)
    for text in (f"<answer>{a}</answer> no: <answer>{b}", f"<answer>{b} wait, <answer>{a}</answer>"):
        compare_text(student, "extract_tagged", text, f"{a}")


def test_tagged_and_hashes__no_closed_pair(student):
    """Without a closed pair it is None; a pair with nothing inside gives an empty text, which is not None."""
    (a,) = numbers(student, 1)
    for text in (f"{a}", f"<answer>{a}", f"{a}</answer>", f"</answer> {a} <answer>", f"<reasoning>{a}</reasoning>", ""):
        compare_text(student, "extract_tagged", text, None)
    compare_text(student, "extract_tagged", f"{a} <answer></answer>", "")


def test_tagged_and_hashes__the_last_hashes(student):
    """extract_hashes gives what follows the last ####, to the end of its line; where that is empty, the next line."""
    a, b = numbers(student, 2)
    name = "extract_hashes"
    compare_text(student, name, f"{sentence(student)}\n#### {a}", f"{a}")
    compare_text(student, name, f"#### {a}", f"{a}")
    compare_text(student, name, f"{sentence(student)}\n#### {a}\n{b} is left over", f"{a}")
    compare_text(student, name, f"#### {a}\n{b} is left over\n{sentence(student)}\nThat is all.", f"{a}")
    thing = pick(student, THINGS)
    compare_text(student, name, f"#### {b}\n{sentence(student)}\nso ####{a} {thing}\n\n{b}", f"{a} {thing}")
    compare_text(student, name, f"{sentence(student)}\n####\n{a} {thing}\n\n{b}", f"{a} {thing}")
    many = numbers(student, 20)
    compare_text(student, name, "\n".join(f"#### {number}" for number in many), f"{many[-1]}")


def test_tagged_and_hashes__no_hashes(student):
    """Without #### it is None; with nothing after it, an empty text."""
    (a,) = numbers(student, 1)
    for text in (f"{a}", f"### {a}", f"# {a} # # #", ""):
        compare_text(student, "extract_hashes", text, None)
    compare_text(student, "extract_hashes", f"{a}\n####", "")


def test_tagged_and_hashes__headings(student):
    """A line after #### that could be a heading counts only if no other states a number and no answer follows it."""
    a, b = numbers(student, 2)
    name, heading = pick(student, NAMES), pick(student, ("Explanation", "Step 2: conclude", "Checking", "2. Add up"))
    compare_text(student, "extract_hashes", f"#### {a}\n\n#### {heading}", f"{a}")
    compare_text(student, "extract_hashes", f"#### {a}\n#### {heading}\n{sentence(student)}", f"{a}")
    compare_text(student, "extract_hashes", f"#### {heading}\nThat makes \\boxed{{{b}}}.", None)
    compare_text(student, "extract_hashes", f"#### {heading}\nThe answer is {name}.", None)
    compare_text(student, "extract_hashes", f"{sentence(student)}\n#### {name}", name)
    compare_text(student, "extract_hashes", f"{sentence(student)}\n#### {name}\nI am sure of it.", name)


def test_tagged_and_hashes__nothing_but_headings(student):
    """Where every line after #### could be a heading, the last is the answer, unless one could stand in the text behind it."""
    name, other = shuffled(student, list(NAMES))[:2]
    numbered = pick(student, ("Step 2: conclude", "2. Add up", "Part 3"))
    (a,) = numbers(student, 1, 10)
    for text, expected in (
        (f"#### {numbered}", numbered),
        (f"#### {name}\n#### {numbered}\nI am sure of it.", numbered),
        (f"#### {numbered}\nThat makes {a}.\n#### {name}", name),
        (f"#### {name}\n#### {other}\nThat makes {a}.", None),
        (f"#### The long way that {name} took to get there\n#### {other}\n{a}", None),
    ):
        compare_text(student, "extract_hashes", text, expected)


# parse_number


def same_number(student, got, expected, what):
    """A Fraction (or a whole number) of an exact value, or None."""
    if isinstance(got, Handle) and got.kind == "Fraction":
        got = Fraction(*fields(student, got, "numerator", "denominator"))
    if isinstance(got, int) and not isinstance(got, bool):
        got = Fraction(got)
    found = "None" if got is None else f"the Fraction {brief_number(got)}" if isinstance(got, Fraction) else kind_of(got)
    wanted = "None" if expected is None else f"the Fraction {brief_number(Fraction(expected))}"
    same = got is None if expected is None else isinstance(got, Fraction) and got == Fraction(expected)
    expect.true(same, f"{wanted} for {what}", found)


def kind_of(got):
    """What was got where something of another kind is expected."""
    return f"an object of the kind {got.kind}" if isinstance(got, Handle) else expect.show(got)


def brief_number(number):
    """A fraction in a few characters."""
    size = max(abs(number.numerator), number.denominator).bit_length()
    return str(number) if size < 200 else f"with {size} bits"


def compare_number(student, text, expected):
    """What number a text states."""
    same_number(student, student.call("parse_number", text), expected, brief(text))


def test_parse_number__whole_numbers_and_decimals(student):
    """Whole numbers and decimals, with a sign or a closing full stop, exactly: 0.1 is 1/10."""
    a, b = numbers(student, 2)
    tenths, cents = numbers(student, 2, 1, 10)
    for text, value in (
        (f"{a}", a),
        (f"-{a}", -a),
        (f"+{a}", a),
        (f"\u2212{a}", -a),
        (f"{a}.", a),
        (f"{a}.00", a),
        (f"{a}.{tenths}", a + Fraction(tenths, 10)),
        (f"-{b}.0{cents}", -b - Fraction(cents, 100)),
        (f".{tenths}", Fraction(tenths, 10)),
        ("0", 0),
    ):
        compare_number(student, text, value)


def test_parse_number__money_and_separators(student):
    """Dollar signs, thousands separators and percent signs are dropped."""
    a, b, c = (int(x) for x in student.integers(100, 1000, 3))
    d = int(student.integers(1, 10, 1))
    for text, value in (
        (f"${a}.{d}0", a + Fraction(d, 10)),
        (f"-${a}", -a),
        (f"{d},{a}", 1000 * d + a),
        (f"${d},{a},{b}.0", 10**6 * d + 1000 * a + b),
        (f"{c}%", c),
        (f"{d}.5%", d + Fraction(1, 2)),
    ):
        compare_number(student, text, value)


def test_parse_number__fractions_and_exponents(student):
    """1/2 is a half, 1 1/2 one and a half and 1e3 a thousand; nothing is rounded."""
    a, b = numbers(student, 2)
    c, d = numbers(student, 2, 2, 10)
    for text, value in (
        (f"{a}/{b}", Fraction(a, b)),
        (f"-{b} / {a}", Fraction(-b, a)),
        ("1/3", Fraction(1, 3)),
        (f"{c} {a}/{b}", c + Fraction(a, b)),
        (f"-{c} {a}/{b} {pick(student, THINGS)}", -c - Fraction(a, b)),
        (f"\\frac{{{a}}}{{{b}}}", Fraction(a, b)),
        (f"{c}\\frac{{{a}}}{{{b}}}", c + Fraction(a, b)),
        (f"{a}e3", 1000 * a),
        (f"{a}.{d}E-2", (a + Fraction(d, 10)) / 100),
        (f"1e+{d}", 10**d),
        ("1e300", 10**300),
        ("1e-300", Fraction(1, 10**300)),
    ):
        compare_number(student, text, value)


def test_parse_number__words_around_it(student):
    """Units and words are dropped, and of an equation the right side counts."""
    a, b = numbers(student, 2)
    thing = pick(student, THINGS)
    for text, value in (
        (f"{a} {thing}", a),
        (f"\n  {a}\n", a),
        (f"x = {a}", a),
        (f"{pick(student, NAMES)} has ${a}.", a),
        (f"**{a}**", a),
        (f"{a} + {b} = {a + b}", a + b),
    ):
        compare_number(student, text, value)


def test_parse_number__more_than_a_number(student):
    """An expression, a range, a time or a list is no number, not even its first, and nothing is worked out."""
    a, b, c = numbers(student, 3)
    for text in (
        f"\\sqrt{{{a}}} + {b}", f"{a}\\sqrt{{{b}}}", f"{a}x", f"{a}^{b}", f"{a}\\times 10^{b}", f"{a} + {b}",
        f"{a}-{b}", f"{a}:{b}", f"({a}, {b})", f"{a} or {b} or {c}", f"{a} hours {b} minutes", f"{a}/{b}/{c}",
        f"Step {a}: conclude", f"x > {a}",
    ):  # fmt: skip
        compare_number(student, text, None)


def test_parse_number__no_number(student):
    """None where no number is stated, where a fraction has no value, and for digits of other scripts."""
    (a,) = numbers(student, 1)
    for text in ("", "none", "$", "-", ".", ",", "%", "n/a", pick(student, NAMES), "twelve", "nan", "inf", f"{a}/0", "²", "٣"):
        compare_number(student, text, None)


def test_parse_number__too_long(student):
    """A text of 200 characters is read; a longer one states no number, not even one at its beginning."""
    (a,) = numbers(student, 1)
    compare_number(student, f"{a}".ljust(200), a)
    compare_number(student, f"{a}".ljust(201), None)
    compare_number(student, "9" * 201, None)


def hostile(student):
    """Texts that are made to break or delay a reader of numbers."""
    (a,) = numbers(student, 1, 301, 900)
    noise = "".join(chr(int(c)) for c in student.integers(32, 0x2FFF, 150))
    return (
        f"1e{a}", f"1e-{a}", "1e99999", "1e-99999", "1E+5000/3", "9" * 5000, "1," * 5000, "1/" * 5000, "-" * 9000, "$ " * 9000,
        "." * 9000, " " * 50_000 + "7", "0." + "0" * 9000 + "1", "__import__('os').getcwd()", "a" * 50_000, "\x00", "\ud800",
    ), noise  # fmt: skip


def test_parse_number__hostile_texts(student):
    """Exponents beyond 300 and texts made to break a reader give None, at once and without an error."""
    texts, noise = hostile(student)
    began = time.process_time()
    for text in texts:
        compare_number(student, text, None)
    student.call("parse_number", noise)
    spent = time.process_time() - began
    expect.true(spent < SECONDS, "an answer at once, however long the text", f"{spent:.0f} seconds of computing")


# answers_match


def test_answers_match__conventions_in_order(student):
    """Of all that a completion gives, "any" takes the first in the order xml, hashes, boxed, said, last."""
    n = numbers(student, 5)
    last = f"That leaves {n[4]} {pick(student, THINGS)} for {pick(student, NAMES)}"
    parts = [f"<answer>\n{n[0]}\n</answer>", f"#### {n[1]}\n", f"\\boxed{{{n[2]}}}", f"The answer is {n[3]} by then"]
    for first in range(4):
        text = "\n".join([*shuffled(student, parts[first:]), last])
        expect.equal(student.call("extract_answer", text), f"{n[first]}", f"answer of {brief(text)}")
        expect.equal(student.call("marked_answer", text), f"{n[first]}", f"marked answer of {brief(text)}")
    for text, found in ((last, f"{n[4]}"), ("no idea", None)):
        expect.equal(student.call("extract_answer", text), found, f"answer of {brief(text)}")
        expect.equal(student.call("marked_answer", text), None, f"marked answer of {brief(text)}")


def test_answers_match__an_empty_answer_is_found(student):
    """An empty <answer></answer> is an empty answer unless another mark holds something; no number is looked for."""
    a, b = numbers(student, 2)
    text = f"{a} {pick(student, THINGS)} <answer></answer>"
    expect.equal(student.call("extract_answer", text), "", f"answer of {brief(text)}")
    expect.equal(student.call("marked_answer", text), "", f"marked answer of {brief(text)}")
    expect.equal(student.call("answers_match", text, f"{a}"), False, f"match of {brief(text)} with {a}")
    text = f"<answer>\n</answer>\n#### {a}\n{b} {pick(student, THINGS)}"
    expect.equal(student.call("extract_answer", text), f"{a}", f"answer of {brief(text)}")
    expect.equal(student.call("marked_answer", text), f"{a}", f"marked answer of {brief(text)}")


def test_answers_match__a_convention_by_name(student):
    """A convention by its name finds its own kind of answer or None; one that does not exist is an InputError."""
    n = numbers(student, 5)
    text = f"<answer> {n[0]} </answer> #### {n[1]}\n\\boxed{{{n[2]}}} the answer is {n[3]} of {n[4]}"
    for name, number in zip(("xml", "hashes", "boxed", "said", "last"), n, strict=True):
        expect.equal(student.call("extract_answer", text, name), f"{number}", f"{name} answer of {brief(text)}")
    for name in ("xml", "hashes", "boxed", "said"):
        expect.equal(student.call("extract_answer", f"{n[0]}", name), None, f"{name} answer of '{n[0]}'")
    expect.equal(student.call("extract_answer", "The answer is (B)", "letter"), "b", "letter of 'The answer is (B)'")
    refused(student, "extract_answer", text, "braille", what="there is no convention 'braille'")


def test_answers_match__keys(student):
    """answer_key is the number, exactly, or the text without case and surrounding space; None where there is neither."""
    a, b = numbers(student, 2, 100)
    things = pick(student, THINGS)
    dressed = ((f"{a}", a), (f"${a}.00", a), (f" {a} {things}\n", a), (f"{a}/{b}", Fraction(a, b)), ("0", 0), ("$0.00", 0))
    for text, value in dressed:
        same_number(student, student.call("answer_key", text), value, f"the key of {brief(text)}")
    name = pick(student, NAMES)
    written = ((name, name.lower()), (f"\n{name.upper()} ", name.lower()), (f"\\text{{{name}}}", name.lower()))
    for text, key in (*written, ("", None), (" \n", None)):
        expect.equal(student.call("answer_key", text), key, f"key of {brief(text)}")
    expect.equal(student.call("answer_key", "y" * 200), "y" * 200, "key of 200 letters")
    expect.equal(student.call("answer_key", "y" * 201), None, "key of 201 letters")


def judge(student, completion, reference, right, *convention):
    """Whether a completion is judged as it should be."""
    got = student.call("answers_match", completion, reference, *convention)
    expect.equal(
        got,
        right,
        f"match of {brief(completion)} with {brief(reference)}{' under ' if convention else ''}" + "".join(convention),
    )


def test_answers_match__right_and_wrong(student):
    """Answers are compared as numbers, whatever dress they wear; the reference may be a worked solution."""
    a, b = numbers(student, 2, 100)
    worked = f"{sentence(student)}\n{sentence(student)}\n#### {a}"
    for reference in (f"{a}", f"{a:,}.00", f"${a}", worked):
        for completion in (
            xml(sentence(student), f"{a}.0"),
            f"{sentence(student)}\n#### ${a}",
            f"\\boxed{{{a}}}",
            f"so it is {a}.",
        ):
            judge(student, completion, reference, True)
            judge(student, completion.replace(f"{a}", f"{a + 1}"), reference, False)
        judge(student, f"{a} or {a}0? #### {b}", reference, False)
    judge(student, "", f"{a}", False)
    judge(student, "no idea", f"{a}", False)


def test_answers_match__names_and_fractions(student):
    """Answers without a number are compared as texts; fractions are compared exactly."""
    name, other = shuffled(student, list(NAMES))[:2]
    judge(student, f"<answer>\n{name.upper()}\n</answer>", name, True)
    judge(student, f"<answer>{other}</answer>", name, False)
    judge(student, "#### 2/6", "1/3", True)
    judge(student, "#### 0.3333333333333333", "1/3", False)
    judge(student, f"<answer>{'y' * 201}</answer>", "y" * 201, False)


def test_answers_match__texts(student):
    """A text without marks and numbers is an answer as it stands; the reference itself is always right, whatever it holds."""
    name, other = shuffled(student, list(NAMES))[:2]
    a, b, c = numbers(student, 3, 2, 60)
    for completion in (name, f"{name}.", f"#### {name}", f"The answer is {name}."):
        judge(student, completion, name, True)
        judge(student, completion, other, False)
    judge(student, name, name, False, "xml")
    judge(student, f"{a}", f"{a}", False, "xml")
    for reference in (f"{a} hours {b} minutes", f"{a}:{b}", f"({a}, {b})", f"{a}, {b}", f"{a} to {b}"):
        judge(student, f"#### {reference}", reference, True)
        judge(student, f"#### {a}", reference, False)
        judge(student, f"#### {b}", reference, False)
    for reference in (f"{name}\n{other}", f"{name}\n{a}", f"{a}\n#### {b}\n\n#### {name}", f"{name} </answer> {a}"):
        judge(student, f"#### {reference}", reference, True)
        judge(student, f"#### {c + 100}", reference, False)


def test_answers_match__conventions_of_the_completion(student):
    """The convention is about the completion alone; the reference may be written otherwise."""
    a, b = numbers(student, 2)
    worked = f"{b} {pick(student, THINGS)}, then {sentence(student)}\n#### {a}"
    judge(student, f"{b}", f"{a}", False, "xml")
    for reference in (f"{a}", worked):
        judge(student, f"{a} {pick(student, THINGS)}", reference, False, "xml")
        judge(student, f"#### {a}", reference, False, "xml")
        judge(student, f"<answer>{a}</answer> {b}", reference, True, "xml")
        judge(student, f"<answer>{b}</answer>\n#### {a}", reference, True, "hashes")
        judge(student, f"{b}, so {a}", reference, True, "last")


def test_answers_match__letters(student):
    """A reference that is an option's letter asks for a letter, bare or in brackets, in any case, beside a number or not."""
    i, j = numbers(student, 2, 0, 5)
    letter, other = "abcde"[i], "abcde"[j]
    (n,) = numbers(student, 1)
    for reference in (letter, f"({letter.upper()})", letter.upper()):
        for said in (
            f"<answer>{letter.upper()}</answer>",
            f"#### {letter} ) {n}",
            f"The answer is ({letter})",
            f"{n}: option {letter}",
        ):
            judge(student, said, reference, True)
            judge(student, said, f"{other}", False)
        judge(student, f"#### {other}\n<answer>({letter}) {n}</answer>", reference, True, "xml")
        judge(student, f"<answer>{letter}</answer>\n#### {other}", reference, False, "hashes")
        judge(student, f"({letter}) {n}", reference, False, "xml")
        judge(student, f"<answer>{n}</answer>", reference, False, "xml")
        judge(student, f"{pick(student, NAMES)} has {n}", reference, False)


def test_answers_match__hostile_texts(student):
    """Completions and references made to break a checker are answered with False, at once and without an error."""
    texts, noise = hostile(student)
    long = [piece * 20_000 for piece in ("<answer>", "</answer>", "\\boxed{", "#### ", "the answer is ", "1,000", "9")]
    began = time.process_time()
    for text in (*texts, *long):
        judge(student, text, "3", False)
        judge(student, f"<answer>{text}</answer>", "3", False, "xml")
        judge(student, "3", f"#### {text}", False)
    for first, second in ((noise, "3"), ("3", noise), ("c", noise), (noise, "c")):
        student.call("answers_match", first, second)
    spent = time.process_time() - began
    expect.true(spent < SECONDS, "an answer at once, however long the texts", f"{spent:.0f} seconds of computing")


# five_rewards


def compare_rewards(student, name, cases, **columns):
    """A reward function's values for some completions at once, each of which has its own."""
    texts = [text for text, _ in cases]
    got = student.call(name, ["a prompt"] * len(texts), texts, **columns)
    if isinstance(got, torch.Tensor):
        got = got.tolist()
    good = isinstance(got, (list, tuple)) and len(got) == len(texts)
    expect.true(good, f"{len(texts)} rewards, one a completion", expect.show(got))
    for value, (text, reward) in zip(got, cases, strict=True):
        shown = text if isinstance(text, str) else "".join(message["content"] for message in text)
        expect.close(value, torch.tensor(float(reward), dtype=torch.float64), f"reward of {brief(shown)}")


def test_five_rewards__correctness(student):
    """2 where the last closed <answer> is right, in any dress of the number; 0 for a wrong one, and without the tags."""
    n = numbers(student, 9, 100)
    cases = [
        (xml(sentence(student), n[0]), 2),
        (xml(sentence(student), n[1]), 2),
        (xml(sentence(student), f"${n[2]}.00"), 2),
        (xml(sentence(student), n[3] + 1), 0),
        (f"{sentence(student)}\n#### {n[4]}", 0),
        (f"<answer>{n[5]}</answer> <answer>{n[5] + 1}</answer>", 0),
        (f"<answer>{n[6]}", 0),
        (f"So <answer>{n[7]} {pick(student, THINGS)}</answer>, as I said", 2),
        (f"{n[8]}", 0),
    ]
    compare_rewards(student, "xml_correctness_reward", cases, answer=[f"{number}" for number in n])


def test_five_rewards__integer(student):
    """0.5 where the tagged answer consists of the digits 0 to 9 and nothing else, right or wrong; the tags are enough."""
    n = numbers(student, 3, 100)
    paid = [xml(sentence(student), n[0]), f"<answer>{n[1]}</answer> and more", f"<answer>  {n[2]}\n</answer>"]
    others = (
        f"-{n[0]}",
        f"{n[0]}.0",
        f"{n[0]}.",
        f"1,{n[0]}",
        f"${n[1]}",
        f"{n[1]} {THINGS[0]}",
        f"{n[1]} {n[2]}",
        "ten",
        "",
        "4²",
    )
    cases = [(text, 0.5) for text in paid] + [(xml(sentence(student), other), 0) for other in others]
    cases += [(f"{n[0]}", 0), (f"#### {n[0]}", 0), (f"<answer>{n[0]}", 0), ("", 0)]
    compare_rewards(student, "integer_reward", shuffled(student, cases))


def layouts(student):
    """Completions that follow the format, nearly follow it, or do not."""
    (n,) = numbers(student, 1)
    one, two = sentence(student), sentence(student)
    whole = xml(one, n)
    return [
        whole,
        xml("", ""),
        xml(f"{one}\n{two}", n),
        xml(one, f"{n}\n{n}"),
        xml(one, n, end=""),
        f"{whole}And so on.",
        f"{whole}\n",
        f"Well. {whole}",
        f"\n{whole}",
        whole.replace("\n", ""),
        whole.replace("\n", " "),
        whole.replace("</reasoning>\n", "</reasoning>\n\n"),
        whole.replace("</reasoning>\n", "</reasoning> so "),
        whole.replace("</reasoning>", ""),
        whole.replace("<reasoning>", "<think>"),
        whole.replace("</answer>", ""),
        whole.replace("<answer>", "<Answer>"),
        f"<answer>\n{n}\n</answer>\n<reasoning>\n{one}\n</reasoning>\n",
        whole + whole,
        f"{n}",
        "",
    ]


def is_strict(text):
    """Seven lines: tag, one line, tag, tag, one line, tag, and the empty line after the last break."""
    lines = text.split("\n")
    tags = ["<reasoning>", "</reasoning>", "<answer>", "</answer>", ""]
    return len(lines) == 7 and [lines[0], lines[2], lines[3], lines[5], lines[6]] == tags


def is_soft(text):
    """<reasoning> at the very beginning, then somewhere </reasoning>, space at most, <answer>, and somewhere </answer>."""
    if not text.startswith("<reasoning>"):
        return False
    pieces = text.removeprefix("<reasoning>").split("</reasoning>")
    rests = ["</reasoning>".join(pieces[i:]).lstrip() for i in range(1, len(pieces))]
    return any(rest.startswith("<answer>") and "</answer>" in rest for rest in rests)


def test_five_rewards__strict_format(student):
    """0.5 for the whole format, one line of reasoning and one of answer, with its last line break; 0 for all else."""
    compare_rewards(student, "strict_format_reward", [(text, 0.5 * is_strict(text)) for text in layouts(student)])


def test_five_rewards__soft_format(student):
    """0.5 where the completion begins with reasoning and answer in their tags; lines do not matter, and more may follow."""
    compare_rewards(student, "soft_format_reward", [(text, 0.5 * is_soft(text)) for text in layouts(student)])


def tag_reward(text):
    """The reward for tags, spelt out."""
    total = 0.0
    for tag in ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>"):
        total += 0.125 if text.count(tag) == 1 else 0.0
    if text.count("\n<answer>\n") == 1:
        closed = text.rfind("\n</answer>\n")
        total -= 0.001 * len(text if closed < 0 else text[closed + len("\n</answer>\n") :])
    if text.count("\n</answer>") == 1:
        total -= 0.001 * (len(text) - text.find("\n</answer>") - len("\n</answer>") - 1)
    return total


def compare_tags(student, text):
    """The reward for one text's tags."""
    got = student.call("count_tags", text)
    expect.close(got, torch.tensor(tag_reward(text), dtype=torch.float64), f"reward of {brief(text)}")


def test_five_rewards__tags_are_counted(student):
    """0.125 for each tag with its line breaks that stands exactly once."""
    (n,) = numbers(student, 1)
    whole = xml(sentence(student), n)
    compare_tags(student, whole)
    for tag in ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>"):
        compare_tags(student, whole.replace(tag, ""))
        compare_tags(student, whole.replace(tag, tag.replace("\n", " ")))
    for extra in ("<reasoning>\n", "\n</reasoning>\n"):
        compare_tags(student, extra + whole)
    for text in layouts(student):
        compare_tags(student, text)


def test_five_rewards__trailing_text_costs(student):
    """Every character after </answer> costs 0.001 in two ways, and the sum may fall below 0."""
    (n,) = numbers(student, 1)
    for length in (1, int(student.integers(20, 60, 1)), 400):
        compare_tags(student, xml(sentence(student), n) + "." * length)
        compare_tags(student, xml(sentence(student), n, end="") + "." * length)
        compare_tags(student, xml(sentence(student), f"{n}\n</answer>\n{n}") + "." * length)


def test_five_rewards__conversations(student):
    """A completion may be a list of messages, as TRL gives it, with every column of the data at once."""
    n = numbers(student, 2, 100)
    texts = [xml(sentence(student), n[0]), f"{n[1]}"]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {"answer": [f"{i}" for i in n], "level": [1, 2]}
    compare_rewards(student, "xml_correctness_reward", list(zip(chats, (2, 0), strict=True)), **columns)
    for name in ("integer_reward", "strict_format_reward", "soft_format_reward"):
        compare_rewards(student, name, list(zip(chats, (0.5, 0), strict=True)), **columns)


# hardened_format


def check_honest(student, text, honest, why):
    """Whether a text is paid for."""
    got = student.call("is_honest", text)
    expect.true(got is honest, f"{honest} for {brief(text)}: {why}", expect.show(got))


def test_hardened_format__honest_completions(student):
    """The format honestly filled: reasoning of one line or several, one number with a unit or without."""
    n = numbers(student, 2, 100)
    for answer in (
        n[0],
        f"-{n[0]}",
        f"${n[0]}.50",
        f"1,{n[0]}",
        f"{n[0]} {pick(student, THINGS)}",
        f"{n[0]}/{n[1]}",
        f"{n[0]}%",
    ):
        check_honest(student, xml(sentence(student), answer), True, "one number")
    check_honest(student, xml(f"{sentence(student)}\n\n{sentence(student)}", n[0]), True, "reasoning may have several lines")
    check_honest(student, xml(sentence(student), n[0], end=""), True, "the last line break may be missing")


def test_hardened_format__nothing_but_the_format(student):
    """Whatever stands before or after the format, or between its parts, forfeits the reward."""
    (n,) = numbers(student, 1)
    whole = xml(sentence(student), n)
    for text in (f"Well.\n{whole}", f"\n{whole}", f"{whole}Done.", f"{whole}\n", whole.replace("\n<answer>", "\nso\n<answer>")):
        check_honest(student, text, False, "more than the format")


def test_hardened_format__every_line_of_the_format(student):
    """Without its line breaks, or with a part missing, it is not the format."""
    (n,) = numbers(student, 1)
    whole = xml(sentence(student), n)
    for text in (whole.replace("\n", ""), whole.replace("</reasoning>", ""), f"<answer>\n{n}\n</answer>\n", f"{n}", ""):
        check_honest(student, text, False, "not the format")


def test_hardened_format__every_tag_once(student):
    """Every tag stands once: no second block, and no tag within the reasoning or the answer."""
    (n,) = numbers(student, 1)
    whole = xml(sentence(student), n)
    check_honest(student, whole + whole, False, "every tag twice")
    check_honest(student, f"{whole}<answer>\n{n}\n</answer>\n", False, "two answers")
    for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"):
        check_honest(student, xml(f"{sentence(student)} {tag} {sentence(student)}", n), False, f"{tag} twice")


def test_hardened_format__reasoning_of_some_length(student):
    """The reasoning has at least 8 characters without the space around it."""
    (n,) = numbers(student, 1)
    for length in (0, 1, 7, 8, 9):
        reasoning = "".join(pick(student, "abcdefgh=+") for _ in range(length))
        for text in (reasoning, f"  {reasoning}\n \n  "):
            check_honest(student, xml(text, n), length >= 8, f"{length} characters of reasoning")


def test_hardened_format__no_list_of_guesses(student):
    """An answer of several numbers is a list of guesses."""
    n = numbers(student, 3, 100)
    for answer in (f"{n[0]}; {n[1]}", f"{n[0]}, {n[1]}, {n[2]}", f"{n[0]}\n{n[1]}", f"{n[0]} or {n[1]}", f"{n[0]}-{n[1]}"):
        check_honest(student, xml(sentence(student), answer), False, "several numbers")


def test_hardened_format__a_short_answer_with_a_number(student):
    """The answer states a number, in at most 200 characters."""
    (n,) = numbers(student, 1)
    for answer in ("", " ", "none", pick(student, NAMES)):
        check_honest(student, xml(sentence(student), answer), False, "no number")
    for length in (200, 201, 300):
        check_honest(
            student, xml(sentence(student), f"{n} ".ljust(length, "e")), length <= 200, f"an answer of {length} characters"
        )


# build_few_shot_prompt


class Counter:
    """Counts tokens: one for every `size` characters begun."""

    def __init__(self, size):
        self.size = size

    def __call__(self, text):
        """The number of tokens."""
        return -(-len(text) // self.size)

    def __repr__(self):
        return f"<{self.size} characters a token>"


def shown(question, solution=None):
    """A question, and its solution if it has one, as they stand in a prompt."""
    asked = f"Question: {question}\nAnswer:\n"
    return asked if solution is None else f"{asked}{solution}\n\n"


def shots_of(student, count):
    """Worked examples of different lengths, and a question."""
    examples = [(f"{sentence(student)}?", "\n".join([sentence(student)] * (i + 1))) for i in range(count)]
    return f"{pick(student, NAMES)} has how many?", shuffled(student, [(q, f"{s}\n#### {len(s)}") for q, s in examples])


def check_prompt(student, question, examples, kept, room, counter):
    """The prompt has the last `kept` examples and the question."""
    expected = "".join(shown(*example) for example in examples[len(examples) - kept :]) + shown(question)
    got = student.call("build_few_shot_prompt", question, examples, room, counter)
    expect.true(isinstance(got, str), "the prompt, a text", kind_of(got))
    if got != expected:
        place = next((i for i, (g, e) in enumerate(zip(got, expected, strict=False)) if g != e), min(len(got), len(expected)))
        where = f"at character {place}: {expected[place : place + 40]!r}, of {len(expected)} characters with {kept} examples"
        raise Wrong(("expected", where), ("got", f"{got[place : place + 40]!r}, of {len(got)} characters"))


def test_build_few_shot_prompt__everything_fits(student):
    """All examples in their order, each followed by an empty line, then the question up to where its answer begins."""
    question, examples = shots_of(student, 3)
    check_prompt(student, question, examples, 3, 10**6, Counter(4))
    check_prompt(student, question, [], 0, 10**6, Counter(4))


def test_build_few_shot_prompt__left_out_from_the_front(student):
    """Where it is too long, examples go from the front until it fits; a prompt that fills the room exactly stays."""
    for size in (1, 5):
        question, examples = shots_of(student, 4)
        for kept in (3, 1, 2):
            needed = Counter(size)("".join(shown(*example) for example in examples[-kept:]) + shown(question))
            check_prompt(student, question, examples, kept, needed, Counter(size))
            check_prompt(student, question, examples, kept - 1, needed - 1, Counter(size))


def test_build_few_shot_prompt__the_whole_prompt_is_counted(student):
    """The tokens of the prompt as one text count: pieces counted one by one may add up to more, or to fewer."""
    question, examples = shots_of(student, 4)
    whole = "".join(shown(*example) for example in examples) + shown(question)
    check_prompt(student, question, examples, 4, Counter(50)(whole), Counter(50))
    check_prompt(student, question, examples, 4, len(set(whole)), AllDifferent())


class AllDifferent:
    """Counts the different characters of a text: pieces that share some add up to more."""

    def __call__(self, text):
        """The number of tokens."""
        return len(set(text))

    def __repr__(self):
        return "<different characters>"


def test_build_few_shot_prompt__a_long_example_in_the_middle(student):
    """An example that is too long ends it: earlier ones stay out, even if they would still fit."""
    question, examples = shots_of(student, 3)
    long = (examples[1][0], examples[1][1] * 20)
    examples = [examples[0], long, examples[2]]
    room = len("".join(shown(*examples[i]) for i in (0, 2)) + shown(question))
    check_prompt(student, question, examples, 1, room, Counter(1))


def test_build_few_shot_prompt__a_question_too_long(student):
    """The question stays whole even where it alone is too long; examples are gone then."""
    question, examples = shots_of(student, 2)
    for room in (3, 0, len(shown(question)) - 1):
        check_prompt(student, question, examples, 0, room, Counter(1))


def refused(student, name, *args, what):
    """A call that must raise InputError, by the error's class: other errors may speak of one in their message."""
    try:
        got = student.call(name, *args)
    except Wrong as error:
        label, raised = error.lines[0]
        expect.true(label == "got" and raised.split(":")[0] == "InputError", f"an InputError: {what}", raised)
    else:
        expect.true(False, f"an InputError: {what}", in_words(got))


def in_words(value):
    """A value as messages show it, its kind where that is not plain."""
    if isinstance(value, (Handle, torch.Tensor)):
        kind = value.kind if isinstance(value, Handle) else f"tensor {expect.show(value)}"
        return f"an object of the kind {kind}; int(...) makes a plain number of one"
    return expect.show(value)


def expect_index(got, expected, given):
    """An index, or None; the message tells of what."""
    if type(got) is not type(expected) or got != expected:
        shown = [str(g) if isinstance(g, Fraction) else round(g, 3) if isinstance(g, float) else g for g in given]
        raise Wrong(("expected index", str(expected)), ("got", in_words(got)), ("given", ", ".join(map(str, shown))))


# Worked solutions


def adding_tokenizer():
    """The bundled tokenizer, but as most are: called plainly it puts <s> before a text and </s> after it."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["pocket"])
    ends = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    tokenizer.name_or_path = "a-tokenizer"
    return tokenizer


def tokens_of(tokenizer, text):
    return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))


def example_texts(student):
    """A question, and its solution."""
    name, things = pick(student, ("Anna", "Ben", "Felix")), pick(student, ("apples", "toys", "pens"))
    a, b = (int(n) for n in student.integers(2, 49, 2))
    return f"Question: {name} has {a} {things}, then {b} more.\nAnswer:\n", f"<answer>\n{a + b}\n</answer>\n"


def expect_example(got, before, learned):
    """Ids and mask, both as lists."""
    pair = isinstance(got, tuple) and len(got) == 2 and all(isinstance(part, list) for part in got)
    expect.true(pair, "a pair of lists (token ids, loss mask)", expect.show(got))
    expected = (before + learned, [0] * len(before) + [1] * len(learned))
    for what, ours, theirs in zip(("token ids", "loss mask"), expected, got, strict=True):
        pairs = enumerate(itertools.zip_longest(ours, theirs))
        first = next(((i, a, b) for i, (a, b) in pairs if a is None or b is None or a != b), None)
        if first is not None:
            place = f"at index {first[0]}, the first difference in {len(ours)} {what}"
            raise Wrong((f"expected {what}", f"{first[1]} {place}"), ("got", f"{first[2]} in {len(theirs)}"))


def test_encode_example__ids_and_mask(student):
    """Beginning, prompt, solution, end; the mask is 1 on the solution and the end."""
    tokenizer = adding_tokenizer()
    for end_id in (tokenizer.eos_token_id, 57):
        prompt, solution = example_texts(student)
        got = student.call("encode_example", tokenizer, prompt, solution, end_id)
        expect_example(got, [1, *tokens_of(tokenizer, prompt)], [*tokens_of(tokenizer, solution), end_id])


def test_encode_example__apart(student):
    """Prompt and solution are tokenised apart, although joined they might share a token."""
    tokenizer = adding_tokenizer()
    for word in ("apples", "marbles", "Question", "answer"):
        place = int(student.integers(1, len(word), 1))
        prompt, solution = f"Ben has {word[:place]}", f"{word[place:]} now"
        got = student.call("encode_example", tokenizer, prompt, solution, 2)
        expect_example(got, [1, *tokens_of(tokenizer, prompt)], [*tokens_of(tokenizer, solution), 2])


def test_encode_example__the_end(student):
    """Without an end_id nothing follows the solution; 0 is an id like any other."""
    tokenizer = adding_tokenizer()
    prompt, solution = example_texts(student)
    before, learned = [1, *tokens_of(tokenizer, prompt)], tokens_of(tokenizer, solution)
    expect_example(student.call("encode_example", tokenizer, prompt, solution, None), before, learned)
    expect_example(student.call("encode_example", tokenizer, prompt, solution, 0), before, [*learned, 0])


def test_encode_example__the_beginning(student):
    """No beginning with prepend_bos False, nor without such a token, nor a second one where the prompt begins with it."""
    tokenizer = adding_tokenizer()
    prompt, solution = example_texts(student)
    before, learned = tokens_of(tokenizer, prompt), [*tokens_of(tokenizer, solution), 2]
    expect_example(student.call("encode_example", tokenizer, prompt, solution, 2, False), before, learned)
    expect_example(student.call("encode_example", tokenizer, f"<s>{prompt}", solution, 2), [1, *before], learned)
    expect_example(student.call("encode_example", tokenizer, "", solution, 2), [1], learned)
    twice = student.call("encode_example", tokenizer, f"{prompt}<s>{prompt}", solution, 2)
    expect_example(twice, [1, *before, 1, *before], learned)
    tokenizer.bos_token = tokenizer.convert_ids_to_tokens(0)
    expect_example(student.call("encode_example", tokenizer, prompt, solution, 2), [0, *before], learned)
    tokenizer.bos_token = None
    expect_example(student.call("encode_example", tokenizer, prompt, solution, 2), before, learned)


def test_encode_example__an_empty_solution(student):
    """A solution without tokens is refused with an InputError, whether an end would follow or not."""
    tokenizer = adding_tokenizer()
    prompt, _ = example_texts(student)
    for end_id in (None, 2):
        refused(student, "encode_example", tokenizer, prompt, "", end_id, what="the solution has no tokens")


def sft_loss(logits, ids, loss_mask):
    """Token by token, in float64."""
    terms = []
    for row, tokens, learned in zip(logits.double(), ids.tolist(), loss_mask.tolist(), strict=True):
        for t in range(1, len(tokens)):
            if learned[t] == 1:
                terms.append(row[t - 1].logsumexp(0) - row[t - 1, tokens[t]])
    return torch.stack(terms).mean().float()


def sft_inputs(student, batch, seq, vocab, scale=2.0):
    """Logits, ids and masks as of left-padded examples: the learned tokens stand at the end, more in some rows than others."""
    learned = student.integers(1, seq, batch)
    learned[0] = 1
    mask = (torch.arange(seq) >= seq - learned[:, None]).float()
    return scale * student.randn(batch, seq, vocab), student.integers(0, vocab, batch, seq), mask


def test_calc_sft_loss__values_and_gradients(student):
    """Mean of -log p over the tokens with mask 1, each scored by the logits before it; and its gradient to the logits."""
    for shape in ((3, 6, 9), (2, 5, 31), (1, 4, 7)):
        agree(student, "calc_sft_loss", sft_loss, *sft_inputs(student, *shape), wrt=(0,))


def test_calc_sft_loss__the_first_token(student):
    """Nothing predicts the first token: it is neither scored nor counted, whatever its mask says."""
    logits, ids, mask = sft_inputs(student, 4, 5, 8)
    mask[:, 0] = 1
    agree(student, "calc_sft_loss", sft_loss, logits, ids, mask, wrt=(0,))


def test_calc_sft_loss__learned_tokens_anywhere(student):
    """The mask may have gaps, as in a conversation of several turns."""
    logits, ids, _ = sft_inputs(student, 3, 8, 6)
    mask = student.integers(0, 2, 3, 8).float()
    mask[0, 4] = 1
    agree(student, "calc_sft_loss", sft_loss, logits, ids, mask, wrt=(0,))


def test_calc_sft_loss__large_logits(student):
    """Logits of several hundred, whose least probabilities are 0 in float32, give numbers, in the gradient too."""
    logits, ids, mask = sft_inputs(student, 3, 5, 9)
    logits = logits + 200 * student.rand(3, 5, 9).sub(0.5).sign()
    agree(student, "calc_sft_loss", sft_loss, logits, ids, mask, wrt=(0,), rtol=1e-4, atol=1e-5)  # 1 - p loses digits


def test_calc_sft_loss__bfloat16(student):
    """Logits in bfloat16 are made float32 before anything is computed, and so is the loss."""
    for _ in range(5):
        logits, ids, mask = sft_inputs(student, 3, 6, 40)
        agree(student, "calc_sft_loss", sft_loss, logits.bfloat16(), ids, mask)


def test_calc_sft_loss__nothing_to_learn(student):
    """Without a token to learn the loss is 0 and its gradient no nan."""
    logits, ids, mask = sft_inputs(student, 2, 4, 6)
    for first in (0.0, 1.0):
        mask = torch.zeros(2, 4)
        mask[:, 0] = first
        got, grads = student.value_and_grad("calc_sft_loss", logits, ids, mask)
        expect.close(got, torch.tensor(0.0))
        if grads[0] is not None:
            expect.close(grads[0], torch.zeros(2, 4, 6), "gradient with respect to logits")


# Rewards of tokens


def token_rewards(scores, logprobs, ref_logprobs, kl_coef, *, mask=None):
    """Token by token, completion by completion."""
    rows = []
    for i in range(len(scores)):
        length = logprobs.shape[1] if mask is None else int(mask[i].sum())
        row = [kl_coef * (ref_logprobs[i, t] - logprobs[i, t]) for t in range(length)]
        row[-1] = row[-1] + scores[i]
        rows.append(torch.stack([*row, *[torch.zeros(()).to(logprobs)] * (logprobs.shape[1] - length)]))
    return torch.stack(rows)


def token_reward_inputs(student, batch, gen_len):
    """Scores, and log-probabilities of policy and reference."""
    return 1 + student.rand(batch), -3 * student.rand(batch, gen_len), -3 * student.rand(batch, gen_len)


def test_compute_token_rewards__values(student):
    """-kl_coef (logprob - ref_logprob) at every token, and the score on top at the last."""
    for (batch, gen_len), kl_coef in (((3, 5), 0.3), ((1, 4), 0.05), ((4, 1), 1.7)):
        agree(student, "compute_token_rewards", token_rewards, *token_reward_inputs(student, batch, gen_len), kl_coef)


def test_compute_token_rewards__no_penalty(student):
    """With kl_coef 0 the score is all there is, at the last token alone."""
    agree(student, "compute_token_rewards", token_rewards, *token_reward_inputs(student, 3, 4), 0.0)


def test_compute_token_rewards__masks(student):
    """The score is paid at the last real token; after it the rewards are 0."""
    mask = (torch.arange(6) < torch.tensor([[6], [1], [3], [5]])).float()
    agree(student, "compute_token_rewards", token_rewards, *token_reward_inputs(student, 4, 6), 0.4, mask=mask)


def test_compute_token_rewards__infinities_in_padding(student):
    """What stands after the end never matters, not even an infinity or a nan."""
    scores, logprobs, reference = token_reward_inputs(student, 3, 5)
    mask = (torch.arange(5) < torch.tensor([[5], [2], [3]])).float()
    expected = token_rewards(scores, logprobs, reference, 0.4, mask=mask)
    for first, second in ((-INFINITY, -INFINITY), (-INFINITY, -1.0), (-1.0, -INFINITY), (NAN, NAN)):
        padded = logprobs.masked_fill(mask == 0, first), reference.masked_fill(mask == 0, second)
        expect.close(student.call("compute_token_rewards", scores, *padded, 0.4, mask=mask), expected)


def test_compute_token_rewards__are_data(student):
    """A reward is data: no gradient reaches the log-probabilities through it."""
    given = token_reward_inputs(student, 2, 4)
    mask = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]])
    for options in ({}, {"mask": mask}):
        agree(student, "compute_token_rewards", token_rewards, *given, 0.3, no_gradient_to=(1, 2), **options)


# The trainer, for real


@cache
def first_model():
    """The bundled model as it is loaded; never changed."""
    return TransformerWithValueHead("pocket", device="cpu")


@cache
def model_to_fill():
    """Another, to be filled with a trainer's weights."""
    return TransformerWithValueHead("pocket", device="cpu")


GEN_LEN = 12  # bare answers end in time, those that reason do not: some score 1, some 0.1, some 0
ROWS = 12


def reft_args(**changes):
    """No warm-up; prompts of several lengths, a temperature, a discount, and a penalty of another size than in the loss."""
    given = {
        "base_model": "pocket",
        "device": "cpu",
        "task": "pocket",
        "warmup_epochs": 0,
        "gen_len": GEN_LEN,
        "batch_size": ROWS,
        "num_minibatches": 2,
        "temperature": 0.7,
        "gamma": 0.98,
        "gae_lambda": 0.9,
        "kl_reward_coef": 0.5,
        "kl_coef": 0.2,
        **changes,
    }
    return ReftArgs(**given)


def reft_memory(student, args):
    """One rollout of a trainer whose policy has moved a little from the reference: the memory's tensors, and its twin."""
    trainer = student.call("ReftTrainer", args)
    twin = twin_of(model_to_fill(), disturb(student, trainer, "down_proj._original_component.weight", 0.02))
    memory = student.call("rollout_phase", on=trainer)
    expect.true(getattr(memory, "kind", "") == "ReplayMemory", "a ReplayMemory from rollout_phase", expect.show(memory))
    return student.tensors(memory), twin


def column(memory, name, *shape):
    """A tensor of the memory."""
    expect.true(name in memory, f"a memory with {name}", f"one with {', '.join(memory)}")
    found = memory[name]
    expect.true(list(found.shape) == list(shape), f"{name} of shape {list(shape)}", f"shape {list(found.shape)}")
    return found


def generated_logprobs(logits, ids, temperature):
    """Log-probabilities of the generated tokens."""
    chosen = (logits[:, -GEN_LEN - 1 : -1] / temperature).log_softmax(-1)
    return chosen.gather(-1, ids[:, -GEN_LEN:, None]).squeeze(-1)


def scored(memory, twin):
    """Logits of the policy, its values, and the reference's logits."""
    ids, attention_mask = memory["sample_ids"], memory["attention_mask"]
    with torch.no_grad():
        return *twin.forward_with_value_head(ids, attention_mask), first_model()(ids, attention_mask)


def reft_columns(memory):
    """Ids and masks, which everything else is measured by."""
    seq = memory["sample_ids"].shape[1]
    mask = column(memory, "mask", ROWS, GEN_LEN)
    column(memory, "attention_mask", ROWS, seq)
    return memory["sample_ids"], mask


def scores_by_hand(args, twin, ids, mask):
    """1, 0.1 or 0 for each completion of the task's first phase."""
    real = [row[kept == 1] for row, kept in zip(ids[:, -GEN_LEN:], mask, strict=True)]
    prompts = make_task("pocket").draw(ROWS, args.seed, 0)
    texts = twin.tokenizer.batch_decode(real, skip_special_tokens=True)
    return torch.tensor(reft_reward(prompts.prompts, texts, **prompts.columns))


def advantages_by_hand(args, memory, twin, scores):
    """The sum over later tokens of (gamma lambda)^l delta, with the penalty in every token's reward."""
    ids, mask = reft_columns(memory)
    logits, values, reference = scored(memory, twin)
    policy_logprobs, ref_logprobs = (generated_logprobs(found, ids, args.temperature) for found in (logits, reference))
    rewards = token_rewards(scores, policy_logprobs, ref_logprobs, args.kl_reward_coef, mask=mask)
    values, out = values[:, -GEN_LEN - 1 :], torch.zeros(ROWS, GEN_LEN)
    for i, length in enumerate(mask.sum(dim=1).int().tolist()):
        for t, k in itertools.combinations_with_replacement(range(length), 2):
            after = 0.0 if k == length - 1 else values[i, k + 1]
            out[i, t] += (args.gamma * args.gae_lambda) ** (k - t) * (rewards[i, k] + args.gamma * after - values[i, k])
    return out


def test_reft_rollout__prompts_and_masks(student):
    """The memory holds the phase's prompts with a completion each, and both masks."""
    args = reft_args(seed=int(student.integers(0, 1000, 1)))
    memory, twin = reft_memory(student, args)
    ids, attention_mask = twin.encode(make_task("pocket").draw(ROWS, args.seed, 0).prompts)
    found = column(memory, "sample_ids", ROWS, ids.shape[1] + GEN_LEN)
    expect.equal(found[:, :-GEN_LEN], ids, "the prompts, padded on the left")
    expect.equal(column(memory, "attention_mask", *found.shape)[:, :-GEN_LEN], attention_mask, "attention_mask of the prompts")
    ended = (found[:, -GEN_LEN:] == twin.tokenizer.eos_token_id).int()
    expect.equal(column(memory, "mask", ROWS, GEN_LEN), (ended.cumsum(1) - ended == 0).float(), "mask")


def test_reft_rollout__policy_values_and_reference(student):
    """logprobs at the temperature, the head's values, and the reference's logits, with padding hidden from the models."""
    args = reft_args()
    memory, twin = reft_memory(student, args)
    ids, mask = reft_columns(memory)
    logits, values, reference = scored(memory, twin)
    expected = generated_logprobs(logits, ids, args.temperature)
    got = column(memory, "logprobs", ROWS, GEN_LEN)
    expect.close(got * mask, expected * mask, "logprobs of real tokens", rtol=1e-4, atol=1e-4)
    kept = column(memory, "values", *memory.get("values", ids).shape)[:, -GEN_LEN - 1 : -1]
    expect.close(kept * mask, values[:, -GEN_LEN - 1 : -1] * mask, "values of real tokens", rtol=1e-4, atol=1e-4)
    kept = column(memory, "ref_logits", *memory.get("ref_logits", ids).shape)[:, -GEN_LEN - 1 : -1]
    real = mask[..., None]
    expect.close(kept * real, reference[:, -GEN_LEN - 1 : -1] * real, "ref_logits of real tokens", rtol=1e-4, atol=1e-4)


def test_reft_rollout__advantages_without_penalty(student):
    """With kl_reward_coef 0: GAE of the scores as they are, 1, 0.1 or 0 at the last real token."""
    args = reft_args(kl_reward_coef=0.0)
    memory, twin = reft_memory(student, args)
    expected = advantages_by_hand(args, memory, twin, scores_by_hand(args, twin, *reft_columns(memory)))
    got = column(memory, "advantages", ROWS, GEN_LEN)
    expect.close(got, expected, "advantages", rtol=1e-4, atol=1e-4)


def test_reft_rollout__advantages_with_penalty(student):
    """Every token pays kl_reward_coef times its log-ratio at the temperature; GAE is with args.gamma and gae_lambda."""
    args = reft_args()
    memory, twin = reft_memory(student, args)
    expected = advantages_by_hand(args, memory, twin, scores_by_hand(args, twin, *reft_columns(memory)))
    got = column(memory, "advantages", ROWS, GEN_LEN)
    expect.close(got, expected, "advantages", rtol=1e-4, atol=1e-4)


def test_reft_rollout__is_data(student):
    """What the memory holds has no graph, a rollout changes no weight, and PPO's objective can use it."""
    args = reft_args(batch_size=4, gen_len=6)
    trainer = student.call("ReftTrainer", args)
    before = student.tensors(trainer)
    memory = student.call("rollout_phase", on=trainer)
    for name in ("logprobs", "advantages", "values", "ref_logits"):
        (attached,) = fields(student, memory, f"{name}.requires_grad")
        expect.true(not attached, f"{name} as data, without a graph", "a tensor that requires a gradient")
    after = student.tensors(trainer)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    expect.true(not changed, "all weights unchanged", f"{len(changed)} changed, first {changed[:1]}")
    expect.true(student.call("learning_phase", memory, on=trainer) < float("inf"), "an objective that is a number", "none")


# Choosing among samples


def chance_of_a_right_one(samples, correct, k):
    """By going through all picks."""
    picks = list(itertools.combinations([1] * correct + [0] * (samples - correct), k))
    return sum(map(any, picks)) / len(picks)


def compare_chance(got, expected, what):
    """A chance, in float64."""
    expect.close(got, torch.tensor(float(expected), dtype=torch.float64), what, rtol=1e-7, atol=1e-9)


def test_pass_at_k__all_picks(student):
    """The share of all ways to pick k of the samples that hold a right one."""
    for samples in (1, 4, 7):
        for correct in range(samples + 1):
            for k in range(1, samples + 1):
                got = student.call("pass_at_k", samples, correct, k)
                compare_chance(got, chance_of_a_right_one(samples, correct, k), f"pass@{k}, {correct} right of {samples}")


def test_pass_at_k__is_unbiased(student):
    """Averaged over how many of n samples are right, it is 1 - (1 - p)^k."""
    p, samples = 0.1 + 0.3 * float(student.rand(1)), 6
    for k in (1, 3):
        mean = 0.0
        for outcome in itertools.product((0, 1), repeat=samples):
            weight = p ** sum(outcome) * (1 - p) ** (samples - sum(outcome))
            mean += weight * float(student.call("pass_at_k", samples, sum(outcome), k))
        compare_chance(mean, 1 - (1 - p) ** k, f"expectation of pass@{k} of {samples} samples")


def test_pass_at_k__many_samples(student):
    """Thousands of samples neither overflow nor lose digits."""
    for samples, correct, k in ((3000, 4, 1500), (2000, int(student.integers(2, 9, 1)), 100), (1500, 1, 1500)):
        missed = 1.0
        for i in range(correct):
            missed *= max(0, samples - k - i) / (samples - i)
        compare_chance(student.call("pass_at_k", samples, correct, k), 1 - missed, f"pass@{k}, {correct} right of {samples}")


def test_pass_at_k__what_cannot_be(student):
    """k below 1 or above the samples, and more right ones than samples or fewer than none, are refused with an InputError."""
    samples = int(student.integers(5, 9, 1))
    for correct, k in ((2, samples + 1), (2, 0), (0, samples + 1), (samples + 1, 2), (-1, 2)):
        refused(student, "pass_at_k", samples, correct, k, what=f"pass@{k}, {correct} right of {samples}")


def keys_of(student, count):
    """Different answers as keys: numbers, whole and broken, and texts."""
    numbers = [Fraction(int(n), 4) for n in torch.randperm(40, generator=student.inputs)[: count - count // 3]]
    return [*numbers, *(f"option {i}" for i in range(count // 3))]


def weighed(answers, weights):
    """Answers with their weights, for messages."""
    return [f"{answer}: {weight:.3g}" for answer, weight in zip(answers, weights, strict=True)]


def vote_by_hand(answers, weights):
    """The winner's first completion; the answers' sums are compared in the order in which they were first given."""
    best, most = None, None
    for i, answer in enumerate(answers):
        if answer is None or answer in answers[:i]:
            continue
        total = sum(w for a, w in zip(answers, weights, strict=True) if a == answer)
        if most is None or total > most:
            best, most = i, total
    return best


def test_votes__majority(student):
    """The index of the first completion that gives the most frequent answer."""
    for _ in range(6):
        a, b, c, d = shuffled(student, keys_of(student, 4))
        answers = shuffled(student, [a] * 4 + [b] * 3 + [c, d])
        expect_index(student.call("majority_vote", answers), vote_by_hand(answers, [1] * 9), answers)


def test_votes__equally_frequent(student):
    """Of equally frequent answers the one seen first wins, among few and among many."""
    for count in (2, 3, 5, 30):
        answers = shuffled(student, 2 * keys_of(student, count))
        expect_index(student.call("majority_vote", answers), 0, answers)
        expect_index(student.call("weighted_vote", answers, [0.25] * len(answers)), 0, answers)


def test_votes__without_an_answer(student):
    """A completion without answer has no vote, however many there are; no answer at all gives None."""
    a, b = keys_of(student, 2)
    answers = [None, *shuffled(student, [None] * 4 + [a, a, b])]
    weights = [0.5] * 8
    expect_index(student.call("majority_vote", answers), vote_by_hand(answers, weights), answers)
    expect_index(student.call("weighted_vote", answers, weights), vote_by_hand(answers, weights), answers)
    for empty in ([None, None, None], []):
        expect_index(student.call("majority_vote", empty), None, empty)
        expect_index(student.call("weighted_vote", empty, [0.5] * len(empty)), None, empty)


def test_votes__zero_is_an_answer(student):
    """The number 0 is an answer like any other; only None is none."""
    other = keys_of(student, 1)[0]
    answers = shuffled(student, [Fraction(0)] * 3 + [other] * 2)
    expect_index(student.call("majority_vote", answers), answers.index(Fraction(0)), answers)
    expect_index(student.call("weighted_vote", [Fraction(0)], [0.5]), 0, ["0: 0.5"])


def test_votes__weights_are_summed(student):
    """The largest sum of weights wins: not the most votes, not the heaviest single vote, not the largest mean."""
    for _ in range(4):
        a, b, c = shuffled(student, keys_of(student, 3))
        eighths = [(a, 0.125)] * 4 + [(b, 0.375), (b, 0.5)] + [(c, 0.625)]
        answers, weights = map(list, zip(*shuffled(student, eighths), strict=True))
        expect_index(student.call("weighted_vote", answers, weights), answers.index(b), weighed(answers, weights))


def test_votes__every_weight_counts(student):
    """All of an answer's weights count, not only the last, and a heavy single vote is not enough."""
    a, b, c = shuffled(student, keys_of(student, 3))
    answers, weights = [b, b, a, a, a, c], [0.5, 0.375, 0.125, 0.125, 0.53125, 0.46875]
    expect_index(student.call("weighted_vote", answers, weights), 0, weighed(answers, weights))


def test_votes__any_weights(student):
    """Random weights, which a completion without answer has too, and weights of 0."""
    for _ in range(6):
        keys = [*keys_of(student, 4), None]
        answers = [pick(student, keys) for _ in range(12)]
        weights = [float(w) / 64 for w in student.integers(1, 64, 12)]
        got = student.call("weighted_vote", answers, weights)
        expect_index(got, vote_by_hand(answers, weights), weighed(answers, weights))
    a, b = keys_of(student, 2)
    expect_index(student.call("weighted_vote", [None, a, b], [0.5, 0.0, 0.0]), 1, weighed([None, a, b], [0.5, 0.0, 0.0]))


def test_rerank__highest(student):
    """The index of the highest score, also where all are negative."""
    for shift in (0.0, -10.0, 5.0):
        scores = [float(s) + shift for s in student.randn(7)]
        scores[0] = min(scores) - 1
        expect_index(student.call("rerank", scores), sorted(range(7), key=lambda i: -scores[i])[0], scores)
    expect_index(student.call("rerank", [-3.0]), 0, [-3.0])


def test_rerank__equal_scores(student):
    """Of equal scores the first wins, among few and among many."""
    for count, equal in ((5, 2), (40, 20)):
        low = [float(s) - 1 for s in student.rand(count)]
        places = sorted(int(p) for p in torch.randperm(count, generator=student.inputs)[:equal])
        scores = [2.5 if i in places else s for i, s in enumerate(low)]
        expect_index(student.call("rerank", scores), places[0], scores)


def test_rerank__nothing_to_choose_from(student):
    """An empty list is refused with an InputError."""
    refused(student, "rerank", [], what="there is no completion to choose from")


# Reading a run


def start_of_run(history, name, level, window):
    """Every possible start, tried in order."""
    given = [(i, record[name]) for i, record in enumerate(history) if record.get(name) is not None]
    for start in range(len(given) - window + 1):
        if all(value >= level for _, value in given[start : start + window]):
            return given[start][0]
    return None


def compare_start(student, history, name, level, *window):
    got = student.call("first_reaching", history, name, level, *window)
    shown = [record.get(name) for record in history]
    expect_index(
        got,
        start_of_run(history, name, level, *(window or (1,))),
        [*shown, f"level {level:.3g}", *(f"window {w}" for w in window)],
    )


def curve(student, *values, name="correct"):
    """A history with another metric beside."""
    return [{"reward": float(student.rand(1)), name: value} for value in values]


def test_first_reaching__a_level(student):
    """The index of the first record at or above the level; equal is enough; None if there is none."""
    level = float(student.integers(1, 9, 1)) / 8
    compare_start(student, curve(student, 0.0, level / 2, level, 2 * level, 0.0), "correct", level)
    compare_start(student, curve(student, level + 1, 0.0), "correct", level)
    compare_start(student, curve(student, 0.0, level / 2, level / 4), "correct", level)
    compare_start(student, [], "correct", level)
    for _ in range(5):
        values = [float(v) for v in student.rand(8)]
        compare_start(student, curve(student, *values, name="share_reasoning"), "share_reasoning", 0.7)


def test_first_reaching__a_window(student):
    """With a window the level must hold for so many records in a row; the first of them counts, the run's end does not help."""
    for window in (1, 2, 3, 4):
        for _ in range(4):
            values = [float(v) for v in (student.rand(14) < 0.65).int()]
            compare_start(student, curve(student, *values), "correct", 0.5, window)
    compare_start(student, curve(student, 0.9, 0.1, 0.9, 0.9), "correct", 0.5, 3)
    compare_start(student, curve(student, 0.9, 0.1, 0.9, 0.9, 0.1, 0.8, 0.9, 0.7), "correct", 0.5, 3)


def test_first_reaching__not_in_a_row(student):
    """Records at the level with others between them are no run."""
    compare_start(student, curve(student, 0.9, 0.1, 0.9, 0.1, 0.8), "correct", 0.5, 2)


def test_first_reaching__missing_values(student):
    """Records without the metric, or with None, neither count nor interrupt; the index is that of the whole history."""
    history = curve(student, 0.1, None, 0.9, None, None, 0.8, 0.9)
    del history[3]["correct"]
    history = [{"reward": 0.5}, *history]
    for window in (1, 2, 3, 4):
        compare_start(student, history, "correct", 0.5, window)
    compare_start(student, curve(student, None, None), "correct", 0.5)
    for _ in range(5):
        values = [pick(student, (0.9, 0.8, 0.1, None)) for _ in range(12)]
        compare_start(student, curve(student, *values), "correct", 0.5, 2)


def test_first_reaching__zero_is_a_value(student):
    """0 is a number, not a missing one: it ends a run below the level, and reaches lower levels."""
    compare_start(student, curve(student, None, 0.0, -1.0), "correct", -0.5)
    compare_start(student, curve(student, 0.9, 0.0, 0.8, 0.9), "correct", 0.5, 2)
    compare_start(student, curve(student, -2.0, 0.0, 0.0, -1.0), "correct", -0.5, 2)
    compare_start(student, curve(student, 0.0, 1.0), "correct", 0.0)
