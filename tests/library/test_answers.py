"""Answers as a person reads them: every way to write a number, what is no number, and what a reference equals."""

import json
import random
import re
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf_lib.rewards import answers_match, correctness_reward, extract_answer, parse_number, same_answer
from rlhf_lib.rewards.answers import MARKS
from rlhf_lib.rewards.numbers import LONGEST_ANSWER
from rlhf_lib.tasks import Prompts, Task

WRITTEN = {  # number: ways to write it
    "18": (
        "18", "18.", "18.0", "$18.00", "18 dollars", "18 dollars.", "€18", "18 €", "18€", "£18.00", "US$18",
        "USD 18", "USD18", "It costs USD18.",
        "18 USD", "¥18",
        "Rs. 18", "Rs.18", "18%", r"18\%", "18 percent", "18 eggs", "18 square feet", "18 km/h", "18 miles per hour",
        "18 cm^2", "18 m²",
        r"18\text{ cm}^2", r"18\text{cm}", r"18 \mathrm{kg}", "18kg", "18 kg", "18°", r"18^\circ", "18 °C", "18/day",
        "$18/hour",
        "18 a day", "18-year-old", "18th", "**18**", "*18*", "`18`", '"18"', "(18)", "[18]", "{18}", "#18", "18!", "18</s>",
        "~18", "≈ 18",
        r"\$18", "$18$", r"\(18\)", r"\[18\]", r"\boxed{18}", r"\text{18}", r"\left(18\right)", "１８", "18\n", "\u200b18",
        "+18", "018",
        "18 (eighteen)", "Answer: 18", "**Answer:** 18", "Anna has 18 apples now.", "She makes $18 every day.", "Total: 18",
        "...18",
        "18 — because she sells them", "答案是18。", "18个苹果", "18 out of 20", "3 + 15 = 18", "3+15=18", "x = 18", "x_1 = 18",
        "x_{12}=18",
        r"x = \frac{36}{2} = 18", "f(2) = 18", "3x = 54, x = 18", "Total = 9 * 2 = $18", "x = 18 apples", "1.8e1", "36/2",
        "18/1", "18 pm",
        "3*6=<<3*6=18>>18", "$ 18", "18 left over", "17 1/1", "x ≈ 18", r"x \approx 18",
    ),
    "-5": (
        "-5", "- 5", "\u22125", "\u2012 5", "\u20135", "\u20145", "\u2010 5", "\ufe635", "\uff0d5", "-$5", "$-5", "-5.0",
        "−5 dollars", "x = -5", "-10/2",
    ),
    "1000": (
        "1000", "1,000", "1 000", "1\u00a0000", "1\u202f000", "1\u2009000", "1\u2007000", "1'000", "1\u2019000", "1{,}000",
        r"1\,000",
        r"1\;000", r"1\:000", r"1\ 000", "1~000", "1,000.00", "$1,000", "1 000 €", "１,０００", "１，０００", "1e3", "1E+3",
        r"\$1{,}000", "1,000/1",
    ),
    "1234567.5": (
        "1234567.5", "1,234,567.5", "1 234 567.5", "1'234'567.5", "12,34,567.5", "12{,}34{,}567.5", "$1,234,567.50",
        r"1\,234\,567.5",
    ),
    "100000": ("1,00,000", "₹1,00,000", "100,000", "100 000", "1e5"),
    "3/2": (
        "3/2", "1.5", "1 1/2", "1\u00a01/2", "1 1⁄2", "1½", "1 ½", "1 and 1/2", "1 1/2 cups", "1½ cups", r"1\frac{1}{2}",
        r"1 \frac{1}{2}", r"1\frac12",
        r"1\dfrac{1}{2}", r"1\tfrac12", r"\frac{3}{2}", r"\frac32", r"\dfrac{3}{2}", r"\frac{3}{2} \text{ cups}", "3 / 2",
        "3⁄2", "6/4",
        r"\boxed{1\frac{1}{2}}", r"\text{1 1/2}", r"x = 1\frac{1}{2}", "$1\\frac{1}{2}$", r"\frac{1.5}{1}", "1.50", "$1.50",
        "3 / 2 cups",
    ),
    "-3/2": ("-1 1/2", "−1½", r"-1\frac{1}{2}", r"-\frac{3}{2}", r"\frac{-3}{2}", "-3/2", "- 1.5", "\u20131 1/2"),
    "1/2": (
        "1/2", ".5", "0.5", "½", r"\frac12", r"\frac{1}{2}", r"\dfrac12", r"\frac 1 2", r"\frac1{2}", r"\frac{1}2",
        r"\tfrac{1}{2}", "50/100", "5e-1", "1/2 cup",
    ),
}  # fmt: skip
NO_NUMBERS = (
    r"2\sqrt{3}", r"\sqrt{3}", "√3", "3x", "3 x", "3xy", "5n", "x5", "2x + 3", "y = 2x + 5", "2^5", "2^{5}", "2**5", "2²",
    "10^{-3}", "10^9",
    r"2\times 10^3", r"2 \cdot 3", "2*3", "2 × 3", "6/x", "x/6", "5 * price", "12 + 5", "12 - 5", "20 - x", "5±1", r"5 \pm 1",
    "2π", r"2\pi",
    r"\frac{\sqrt{3}}{2}", r"\frac{3x}{2}", "sin(5)", "sqrt(5)", "log_2 8", "|5|", "5!x", "3:30", "3:30 pm", "12:00:05",
    "10-15", "10–15",
    "10 - 15", "10 to 15", "5 or 6", "1, 2, 3", "1; 2", "(1, 2)", "[1, 2]", r"\{1, 2\}", "2 hours 30 minutes", "5'10\"",
    "12/25/2020", "2020-12-25",
    "1.2.3", "3/4/5", "12,34", "1,00,0", "1,000,00", "10,00", "x > 5", r"x \le 5", "x ≥ 5", "5 < x", "x != 5",
    "x = 2 or x = 3", "x = 2, y = 3",
    "Step 2: conclude", "Option 3", "not 5", "2 thirds", "half of 18", "5 squared", "0x10", "3D", "COVID-19", "18k", "--5",
    "+-5", "1/0", "1e999",
    "²", "٣", "", " ", "none", "twelve", "$", "-", "%", "½½", "3 + 4 =", "= ", "5 x 3",
)  # fmt: skip


@pytest.mark.parametrize("number", WRITTEN)
def test_numbers_in_every_dress(number):
    for text in WRITTEN[number]:
        assert parse_number(text) == Fraction(number), text


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_more_or_less_than_a_number(text):
    assert parse_number(text) is None


def dressed(text):
    """Completions that give an answer under each convention, in text that has other numbers."""
    head = "She has 3 and 4. "
    return {
        "xml": f"{head}<answer>{text}</answer> I took 2 steps.",
        "hashes": f"{head}\n#### {text}\n",
        "boxed": f"{head}\\boxed{{{text}}}, in 2 steps.",
        "said": f"{head}The answer is {text}",
    }


IN_LINES = {number: [text for text in texts if "\n" not in text] for number, texts in WRITTEN.items()}


@pytest.mark.parametrize("number", WRITTEN)
def test_every_convention_reads_the_same_grammar(number):
    for text in IN_LINES[number]:
        for convention, completion in dressed(text).items():
            if (convention, text) in APART:
                continue
            for name in (convention, "any"):
                assert answers_match(completion, number, name), (completion, name)
                assert not answers_match(completion, str(Fraction(number) + 1), name), (completion, name)


APART = {("boxed", "{18}"), ("said", "{18}")}


@pytest.mark.parametrize(
    ("completion", "right", "wrong"),
    [
        # #### as Markdown's heading
        ("#### Step 2: conclude\nThe answer is \\boxed{18}.", "18", "2"),
        ("#### 18\n\n#### Explanation", "18", "1"),
        ("#### 18\n\n#### Explanation\nShe has 3 and 4.", "18", "4"),
        ("#### Explanation\nShe has 3+4=7.", "7", "3"),
        ("####\n18", "18", "1"),
        ("####\n\n18 eggs\n", "18", "8"),
        ("#### Final Answer\n18", "18", "1"),
        ("#### Answer: 18", "18", "1"),
        ("#### 1. Understand\nShe has 3.\n#### 2. Compute\n3*6=18\n\nThe answer is 18.", "18", "2"),
        ("#### **Step 1:** Add\n3+4=7\n#### **Step 2:** Double\n7*2=14", "14", "2"),
        ("so #### 14 apples\n\n9", "14", "9"),
        ("#### 5\nno:\n#### 6", "6", "5"),
        # several marks and empty ones
        ("<answer></answer>\n#### 18", "18", "1"),
        ("<answer> </answer> so \\boxed{18} of 20", "18", "20"),
        ("<answer>4</answer> #### 5", "4", "5"),
        (r"\boxed{5} no, \boxed{6}", "6", "5"),
        # said
        ("The answer is 12, I think, not 13", "12", "13"),
        ("Final answer: 18 (in 3 steps)", "18", "3"),
        ("**Answer:**\n18\nI am 100% sure.", "18", "100"),
        ("The answer is:\n\n$$18$$\n\nin 2 steps", "18", "2"),
        ("The answer is 15 gallons * 8 pints / gallon = 120 pints", "120", "15"),
        (r"The answer is $2\sqrt{3}$.", r"2\sqrt{3}", "2"),
        ("The answer is 3:30.", "3:30", "3"),
        ("The answer is x = 5.", "5", "1"),
        ("The answer is - 5.", "-5", "5"),
        ("The answer is Monday.", "Monday", "Tuesday"),
        # the last number
        ("That leaves 14 apples.", "14", "4"),
        ("so 20 - 2 = 18", "18", "2"),
        ("- 18 eggs", "18", "-18"),
        ("1) 18 eggs\n- 19 eggs", "19", "-19"),
        ("- 5", "-5", "5"),
        ("It is -5", "-5", "5"),
        ("it takes 1 1/2 hours", "1.5", "0.5"),
        ("it takes 1 and 1/2 hours", "1.5", "0.5"),
        (r"it takes $1\frac{1}{2}$ hours", "1.5", "0.5"),
        ("It costs 1 000 euros.", "1000", "0"),
        ("It costs 1\u202f000 euros.", "1000", "0"),
        ("It costs $ 1,000.", "1000", "0"),
        ("I get 3x.", "3x", "3"),
        (r"I get $2\sqrt{3}$.", r"2\sqrt{3}", "3"),
        (r"I get $2 \times 10^3$", r"2 \times 10^3", "3"),
        ("It leaves at 3:30.", "3:30", "30"),
        ("10 - 15 people", "10-15", "15"),
        ("the point (1, 2).", "(1,2)", "2"),
        ("on 12/25/2020", "12/25/2020", "2020"),
        ("They drank 18 bottles of H2O.", "18", "2"),
        ("答案是18。", "18", "8"),
        # texts
        ("Paris", "Paris", "London"),
        ("Paris.\n", "Paris", "London"),
        ("**paris**", "Paris", "London"),
        ("<answer>Paris</answer>", "Paris", "London"),
        (r"\boxed{\text{Monday}}", "Monday", "Tuesday"),
        (r"\boxed{\text{ New York }}", "new york", "York"),
        (r"\boxed{2\sqrt{3}}", r"2 \sqrt{3}", "2"),
        (r"\boxed{3x}", "3x", "3"),
        (r"\boxed{10^{-3}}", "10^{-3}", "10"),
        (r"\boxed{\dfrac{x}{2}}", r"\frac{x}{2}", "2"),
        ("#### 2 hours 30 minutes", "2 hours 30 minutes", "30"),
        ("#### (1, 2)", "(1,2)", "1"),
        # worked solutions as references
        ("#### 36", "3 * 12 = <<3*12=36>>36 pens.\n#### 36", "3 * 12 = 36 pens.\n#### 12"),
        ("so 36.\nA: 36", "3 * 12 = <<3*12=36>>36 pens.\nA: 36", "3 * 12 = 36 pens.\nA: 12"),
    ],
)
def test_completions_as_a_person_reads_them(completion, right, wrong):
    assert answers_match(completion, right)
    assert not answers_match(completion, wrong)


@pytest.mark.parametrize(
    "completion",
    [
        "B", "b", "**B**", "(B)", "[B]", "B.", "B)", "B:", "*B*", " B\n", "B) 27", "B. Paris", "B: 27", "**B)** 27", "(B) 27",
        "Option B", "option (b)",
        "Answer: B", "Answer: (B)", "answer: b", "**Answer:** B", "**Answer: B**", "Answer:\nB", "The answer is B",
        "The answer is B.",
        "The correct answer is B.", "The correct answer is (B).", "The correct answer is: **B**", "The correct option is B.",
        "The best choice is (B).",
        "The answer is option B", "Final answer: B", "The answer should be B.", r"\boxed{B}", r"\boxed{\text{B}}",
        r"$\boxed{\textbf{(B)}}$", r"\boxed{\mathrm{B}}",
        "#### B", "#### (B)", "####\nB", "#### B\nsince 3+4=7", "<answer>B</answer>", "<answer>\n(B) 27\n</answer>",
        "3+4=7, so\nB", "It is 7.\n**B**",
        "Not (a): option B", "I choose option B.", "Let me see.\n\nAnswer: B\n\nBecause 3+4=7.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("reference", ["B", "(b)"])
def test_option_letters_in_all_forms(completion, reference):
    assert answers_match(completion, reference)
    assert not answers_match(completion, "C")
    assert not answers_match(completion, "(a)")


@pytest.mark.parametrize(
    "completion", ["A train is late", "a", "Because", "C's", "27", "", "Bob", "Answer: 3", "The answer is a train"]
)
def test_words_are_no_options(completion):
    assert not answers_match(completion, "B")
    assert answers_match(completion, "A") == (completion == "a")


SAID_IN_ANOTHER_FORM = [  # completion and reference, which a person takes for the same
    ("The answer is:\n- 42", "42"), ("Final answer:\n\n- 42 apples", "42"), ("#### 5\n\n#### Explanation 2\nbecause", "5"),
    ("The answer is not 42, it is 43.", "43"), ("The answer is not 42 but 43.", "43"),
    ("The total cost is $42.00 ($21.00 x 2)", "42"), ("I need 42 dollars ($21 × 2).", "42"),
    ("9.8 m/s^2", "9.8"), ("it falls with 9.8 m/s^2.", "9.8"), ("an area of 18 cm^2", "18"), ("96/16=6 times a day.", "6"),
    ("It costs 2,000 dollars and 50 cents.", "2000.50"),
    ("Rs 500/-", "500"), ("It costs Rs. 500/-.", "500"), ("negative 5", "-5"), ("The answer is negative 5.", "-5"),
    ("#### 5 sec", "5"), ("#### 5 Ω", "5"), ("They meet at 3:30 p.m.", "3:30 pm"), ("#### 3:30 p.m.", "3:30 pm"),
    ("#### 3:30PM", "3:30 pm"), ("The ratio is 3 : 4", "3:4"),
    ("The answer is yes, because 3 > 2", "yes"), ("x + 1", "x+1"), (r"\boxed{2\sqrt3}", r"2\sqrt{3}"),
    (r"\boxed{2^{10}}", "2^10"),
    (r"\boxed{\frac{x}{2}}", "x/2"), (r"\boxed{\frac{\pi}{2}}", r"\pi/2"), ("The total is 1.234,50 €", "1234.50"),
    ("#### 3 hundred", "300"), ("#### 2 dozen", "2"), (r"\boxed{5 \text{ million}}", "5000000"),
    (r"\boxed{5 million}", "5000000"),
    ("#### 2.5 million", "2500000"), ("It sold 2 hundred thousand.", "200000"), ("$1 1/2 million", "1500000"),
    ("3 crore", "30000000"),
    ("The answer is 5 dollars and 50 cents", "5.50"), ("The answer is $5 and 50 cents", "5.5"),
    ("#### 5 dollars 5 cents", "5.05"),
    ("The answer is 2 hours and 30 minutes", "2 hours 30 minutes"), ("It takes 2 hours 30 minutes.", "2 hours and 30 minutes"),
    ("The answer is 5 feet 3 inches", "5 feet 3 inches"), ("x > 5", "x>5"), ("x=1, y=2", "x = 1, y = 2"),
    ("$5 to $10", "$5 to $10"), ("5~10", "5-10"), ("so x = 5, y = 6, and x + y = 11", "11"),
]  # fmt: skip
SAID_OTHERWISE = [  # completion and a reference that a person does not find in it
    (r"\boxed{5 million}", "5"), ("#### 2.5 million", "2.5"), ("#### 2 thousand", "2"), ("5 hundred", "5"), ("5 bn", "5"),
    ("#### 5 hundred-dollar bills", "500"), ("#### 1e400 million", "1"), ("#### 5/0 million", "5"), ("#### 3 tenths", "3"),
    ("The answer is 5 feet 3 inches", "5"), ("The answer is 5 feet 3 inches", "3"),
    ("The answer is 2 hours and 30 minutes", "2"),
    ("2 hours and 30 minutes", "30"), ("It takes 1 hour, 5 minutes and 7 seconds.", "7"), ("It weighs 3 lbs 4 oz", "4"),
    ("5 thousand and 20", "20"), ("The answer is 5 dollars and 50 cents", "5"), ("The answer is $5 and 50 cents", "5"),
    ("The answer is $5 and 50 cents", "50"),
    ("x > 5", "5"), ("x ≠ 5", "5"), ("x != 5", "5"), (r"$x \ge 5$", "5"), ("x >= 5", "5"), ("5 < x", "5"),
    ("x = 1 or x = 2", "2"), ("x=1, y=2", "2"), ("x = 1; y = 2; z = 3", "3"), ("a_1 = 5, a_2 = 6", "6"),
    ("The answer is x = 1 and y = 2", "1"),
    ("The answer is x = 1 and y = 2", "2"), ("$5 to $10", "10"), ("$5 each and 50 cents", "5.5"), ("6 times 5", "5"),
    ("5~10", "10"), ("5 ~ 10", "10"), ("The answer is 5 or 6", "5"),
    ("between 5 and 10 apples", "10"), ("5 apples or 6 apples", "6"),
    (r"\log_2 8", "8"), ("sin 30", "30"), ("x + 1", "1"), ("3 plus 4", "4"), ("20 minus 5", "-5"), ("20 minus 5", "5"),
    ("The answer is not 42, it is 43.", "42"), ("The answer is not 42.", "42"), ("It is not 42", "42"), ("negative 5", "5"),
    ("2 (3 x 4)", "2"), ("f(2)", "2"), ("The ratio is 3 : 4", "4"), ("#### sec 5", "5"), ("#### 5 t", "5"),
    ("The answer is yes, because 3 > 2", "3"), ("The answer is yes, because 3 > 2", "no"),
    (r"\boxed{2\frac{1}{x}}", "21/x"), (r"\boxed{\sqrt{3}x}", r"\sqrt{3x}"), ("(1.234,50)", "1234.5"),
    ("They meet at 3:30 p.m.", "30"),
    (r"\boxed{A, B}", "A"), (r"\boxed{A, B}", "B"), ("The answer is A and B.", "A"), ("The answer is B or C", "B"),
    ("#### A/B", "A"),
    ("The answer is e^2", "E"), ("The answer is c = 5", "C"), ("The answer is C++", "C"), ("The answer is D-Day", "D"),
    ("The answer is c + 1", "C"), ("The answer is e.g. 5", "E"), ("The answer is D'Artagnan", "D"),
    ("The answer is D’Artagnan", "D"),
    ("The answer is I think 5", "I"), ("The answer is not B but C", "B"), ("The answer is not B", "B"),
    ("I don't choose B.", "B"), ("(a) no (b) no (c) yes", "a"),
]  # fmt: skip
LETTERS_SAID = [
    ("I choose B.", "B"), ("It's B", "B"), ("d is correct.", "d"), ("So d is correct.", "d"), ("Answer d", "d"),
    ("answer = d", "d"),
    ("The answer is 27.5, which is d", "d"), ("The answer is A because B is wrong", "A"), ("The answer is not B but C", "C"),
    ("(a) no (b) no (c) yes", "c"), ("(a) yes (b) no (c) no", "a"), ("(F)", "F"), ("The answer is (F).", "F"),
    ("The answer is: (F) 6", "F"),
    ("The answer is J", "j"), ("The answer is (I)", "I"), ("#### G", "(g)"), ("The answer is B - Paris", "B"),
    ("The answer is B, a train", "B"),
    ("The answer is B</s>", "B"), ("The answer is **B** because", "B"), ("The answer is:\n- B", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("completion", "reference"), SAID_IN_ANOTHER_FORM + LETTERS_SAID)
def test_a_person_finds_the_reference(completion, reference):
    assert answers_match(completion, reference)
    other = str(parse_number(reference) + 1) if parse_number(reference) is not None else "B" if reference != "B" else "C"
    assert not answers_match(completion, other)


@pytest.mark.parametrize(("completion", "reference"), SAID_OTHERWISE)
def test_a_person_does_not_find_the_reference(completion, reference):
    assert not answers_match(completion, reference)


# References

HARD = (
    "3:30", "1 1/2", "10-15", "(1, 2)", "2 hours 30 minutes", "12/25/2020", "1 000", "####", "#### 5", "5\n6",
    "5\n#### 6\n\n#### 7", "x\ny", "a",
    "(a", "A.", "<answer>5</answer>", "</answer>", "<answer></answer>", "the answer is", "The answer is 5", "\\boxed{",
    "\\boxed{}", "$", "**", ".",
    "Step 2: conclude", "Explanation\n3", "-", "\u200b", "- 5", "\ud800", " ", "\n", "\x1f", "#", "# 5", "NaN", "1/0",
)  # fmt: skip
pieces = st.sampled_from(
    (*HARD, "\n", " ", "####", "<answer>", "</answer>", "\\boxed{", "}", "7", "the answer is ", "Answer: ", "B", ".")
)
references = (st.text(max_size=200) | st.lists(pieces, max_size=12).map("".join)).map(lambda text: text[:200])


@pytest.mark.parametrize("reference", HARD)
def test_hard_references_equal_themselves(reference):
    assert answers_match(f"#### {reference}", reference)
    assert answers_match(reference, reference) == bool(reference.strip())  # saying nothing is no answer


@settings(deadline=None, max_examples=500)
@given(references.filter(len))
def test_a_reference_equals_itself(reference):
    """Every text of 1 to 200 characters, space too."""
    assert answers_match(f"#### {reference}", reference)


@settings(deadline=None, max_examples=100)
@given(references, references)
def test_equality_is_symmetric_and_no_text_raises(first, second):
    assert same_answer(first, second) == same_answer(second, first)
    assert isinstance(answers_match(first, second), bool)
    for convention in (*MARKS, "last", "letter"):
        assert isinstance(answers_match(first, second, convention), bool)


@settings(deadline=None, max_examples=100)
@given(st.fractions(max_denominator=99), st.fractions(max_denominator=99))
@example(Fraction(3, 2), Fraction(1, 2))
def test_mixed_numbers_are_exact(first, second):
    def mixed(number):
        whole, rest = divmod(abs(number), 1)
        sign = "-" if number < 0 else ""
        return f"{sign}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}"

    assert parse_number(mixed(first)) == first
    assert answers_match(f"\\boxed{{{mixed(first)}}}", str(second)) == (first == second)


@settings(deadline=None, max_examples=100)
@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from((",", " ", "\u00a0", "\u202f", "\u2009", "'", "\u2019", "{,}", "\\,", "\\;")),
)
def test_thousands_separators(number, separator):
    text = f"{number:,}".replace(",", separator)
    for completion in (
        f"#### {text}",
        f"\\boxed{{{text}}}",
        f"<answer>{text}</answer>",
        f"The answer is {text}.",
        f"That makes {text}.",
    ):
        assert answers_match(completion, str(number)), completion
        assert not answers_match(completion, str(number + 1)), completion


def test_the_task_of_the_contributors_guide_earns_its_reward():
    """CONTRIBUTING's code as it stands there."""
    guide = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    code = re.search(r"( {4}class Capitals\(Task\):\n(?:(?: {8}.*)?\n)+)", guide)[1]
    capitals = [("France", "Paris"), ("Japan", "Tokyo")]
    names = {"Task": Task, "Prompts": Prompts, "correctness_reward": correctness_reward, "answers_match": answers_match}
    names |= {"random": random, "TRAIN": capitals, "TEST": capitals}
    exec("if True:\n" + code, names)
    task = names["Capitals"]()
    drawn, (reward,) = task.draw(4, 0, 0), task.reward_fns
    right = drawn.columns["answer"]
    assert reward(drawn.prompts, right, **drawn.columns) == [1.0] * 4
    assert reward(drawn.prompts, [f" {name}." for name in right], **drawn.columns) == [1.0] * 4
    assert reward(drawn.prompts, ["Rome"] * 4, **drawn.columns) == [0.0] * 4
    assert task.is_correct(task.held_out(2), ["Paris", "Kyoto"]) == [True, False]
    assert extract_answer("Paris") is None


def test_solutions_in_the_form_of_the_published_ones(shared):
    """OpenAI's published samples end in a line such as "A: 18", and so do their references; calculator notes stay in."""
    rows = [json.loads(line)["answer"].rpartition("####") for line in (shared / "data/gsm8k/test.jsonl").open()]
    answers = [answer.strip() for _, _, answer in rows]
    for (solution, _, _), answer, other in zip(rows, answers, answers[1:] + answers[:1], strict=True):
        reference = f"{solution}A: {answer}"
        assert answers_match(reference, reference)
        assert answers_match(f"{solution}A: {other}", reference) == (parse_number(other) == parse_number(answer))
        assert same_answer(extract_answer(f"{solution}A: {answer}"), answer)


@pytest.mark.parametrize("part", ["a.", "a-", "a'", "a.b'", "- a", "--", "a^{2}", "²a", "%$", "1 000 ", "\\frac{1", "a/ "])
@pytest.mark.parametrize("end", ["^", "=", "5", "~"])
def test_texts_that_can_be_read_in_many_ways_end(part, end):
    """A pattern that takes a character in two ways tries 2^100 readings of these, and never ends."""
    text = (part * LONGEST_ANSWER)[: LONGEST_ANSWER - 3]
    for answer in (f"{text}{end}", f"5 {text}{end}", f"{text}{end} 5"):
        assert not answers_match(f"<answer>{answer}</answer>", "7")
