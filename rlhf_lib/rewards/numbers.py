r"""One grammar for numbers as people and models print them: 1,000 and 1 000, $5, 50%, 1 1/2, \frac{1}{2}, 18 eggs.

`plain` takes print and LaTeX away from any text. `bare` takes units, currency and punctuation away from a text that states one
number, and leaves every other text as it is: 2\sqrt{3}, 3x, 3:30 and 10-15 are no numbers, and nothing is worked out.
`first_stated` and `last_stated` find a number, or the whole expression that it is a part of, in running text.
"""

import re
from fractions import Fraction

LONGEST_ANSWER = 200  # characters of an answer that are looked at
LARGEST_EXPONENT = 300

NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>[0-9]+) (?=[0-9]+/))?"
    r"(?P<numerator>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:e(?P<exponent>[-+]?[0-9]+))?)(?:/(?P<denominator>[0-9]+(?:\.[0-9]+)?))?"
)
r"""A bare number: -18.5e3, 3/4, 1 1/2 (whole, numerator and denominator)."""

# Print

VULGAR = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅕": "1/5",
    "⅖": "2/5",
    "⅗": "3/5",
    "⅘": "4/5",
    "⅙": "1/6",
}
VULGAR |= {"⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8", "⅐": "1/7", "⅑": "1/9", "⅒": "1/10"}
PRINT = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # fullwidth forms
    | dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000~", " ")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-")
    | dict.fromkeys("\u2044\u2215", "/")
    | dict.fromkeys("\u2018\u2019\u02bc", "'")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", None)
    | {"\u3002": ".", "\u3001": ","}
    | {glyph: f" {fraction}" for glyph, fraction in VULGAR.items()}
)
DASH = re.compile(r"(?<=[0-9]) ?~ ?(?=[$€£]?[0-9])(?![0-9]{3}(?![0-9]))")  # 5~10; 1~000 is a LaTeX space
NOTE = re.compile(r"<<[^<>]*>>")  # the notes of GSM8K's calculator: 3*4=<<3*4=12>>12
TAG = re.compile(r"</?[A-Za-z][\w-]{0,20}>|<\|[^<>|]{0,40}\|>")  # tags and special tokens
IDEOGRAPHS = re.compile("([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+)")  # scripts that put no space between words and numbers
SIMPLE = r"\{([-+0-9., ]{1,40})\}|([0-9])"
FRACTION = re.compile(rf"([0-9] {{0,3}})?\\[dtc]?frac ?(?:{SIMPLE}) ?(?:{SIMPLE})")
WRAPPED = re.compile(r"\\(?:(?:text|math)(?:bf|it|rm|sf|tt|normal)?|[fm]?box(?:ed)?|emph|underline|bm) ?\{([^{}]{0,200})\}")
LATEX = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\!"), ""),
    (re.compile(r"\\(?:q?quad(?![A-Za-z])|[,;:> ()\[\]])"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%#&_])"), r"\1"),
    (re.compile(r"\^ ?\{? ?\\circ ?\}?|\\degree(?![A-Za-z])"), "°"),
    (re.compile(r"\\approx(?![A-Za-z])"), "≈"),
    (FRACTION, lambda found: f"{found[1].strip() + ' ' if found[1] else ''}{found[2] or found[3]}/{found[4] or found[5]}"),
    (WRAPPED, r" \1 "),
    (WRAPPED, r" \1 "),  # \boxed{\text{...}}
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
)

CURRENCY = "$€£¥₹₩₽₺₫₪฿¢"
SAID = (  # in words or in another country's print
    (re.compile(rf"(?<!\w)(?:negative|(?<=\bis )minus|^minus) (?=[{CURRENCY}]?\.?[0-9])", re.IGNORECASE | re.MULTILINE), "-"),
    (
        re.compile(
            r"(?:([$€£])|(?<![\w.,]))([0-9][0-9,]{0,12})(?(1)(?: (?:dollar|euro|pound)s?)?| (?:dollar|euro|pound)s?)"
            r"(?:,| and|, and)? ([0-9]{1,2}) (?:cents?|pence)\b"
        ),
        lambda found: f"{found[1] or '$'}{found[2]}.{found[3]:0>2}",
    ),
    (  # 1.234,50; in brackets it is a point
        re.compile(r"(?<![\w.,(\[])[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]{1,2}(?![\w,]|\.[0-9])"),
        lambda found: found[0].replace(".", "").replace(",", "."),
    ),
)


def plain(text: str) -> str:
    r"""A text without print and LaTeX that say nothing: \frac12 is 1/2, 1\frac{1}{2} is 1 1/2, 1{,}000 is 1,000, \text{B} is B.

    Dashes are hyphens, spaces of any width spaces, fullwidth characters ordinary ones; tags, special tokens and a calculator's
    notes go. Amounts in words and in other countries' print become ordinary: negative 5 is -5, 5 dollars and 50 cents $5.50,
    1.234,50 is 1234.50. Lines stay.
    """
    text = TAG.sub(" ", NOTE.sub("", DASH.sub("-", text).translate(PRINT)))
    if "\\" in text or "{,}" in text:
        for pattern, instead in LATEX:
            text = pattern.sub(instead, text)
    text = "\n".join(" ".join(line.split()) for line in IDEOGRAPHS.sub(r" \1 ", text).strip().split("\n"))
    for pattern, instead in SAID:
        text = pattern.sub(instead, text)
    return text


# One number and what may stand beside it

GROUPED = r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+|[0-9]{1,3}(?:'[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}"
WHOLE = rf"(?:(?:{GROUPED})(?![0-9])|[0-9]+)"
PRINTED = re.compile(  # a number in a text that is plain
    rf"(?<![0-9])(?P<sign>[-+] ?)?(?P<currency>[{CURRENCY}] ?)?(?P<inner>[-+])?"
    rf"(?:(?P<whole>{WHOLE}) (?:and )?(?=[0-9]+ ?/ ?[0-9]))?"
    rf"(?P<numerator>(?:(?:(?<!\.)|(?<=\.\.)|(?<=[A-Za-z]\.)){WHOLE}(?:\.[0-9]*)?|(?<![\w.])\.[0-9]+)(?:[eE][-+]?[0-9]{{1,4}}(?!\w))?)"
    rf"(?: ?/ ?(?P<denominator>{WHOLE}(?:\.[0-9]+)?))?"
)
LETTER = r"[^\W\d_\u00b2\u00b3\u00b9\u2070-\u209f\u2150-\u218f\u2460-\u24ff]"  # no superscript or other sign of a number
WORD = rf"{LETTER}+(?:['.-]{LETTER}+)*"
WORDS = re.compile(WORD)
BESIDE = rf"\s.,:;!?()\[\]{{}}\"'#%{CURRENCY}"  # punctuation
BEFORE = re.compile(rf"(?:{LETTER}|(?<={LETTER})-(?={LETTER})|[{BESIDE}≈])*")  # each character in one way only, lest it try 2^n
AFTER = re.compile(
    rf"(?:{LETTER}|(?<={LETTER})(?: ?\^ ?\{{?[23]|[²³])|-(?=-*\s| ?{LETTER})|/(?= ?{LETTER})|/-(?!\w)|[{BESIDE}…‰°′″])*"
)
SHARE = re.compile(r" (?:out )?of [0-9]+(?![\w.,/%])")  # 7 of 12
POWERED = re.compile(r"([^\W\d_]+)(?: ?\^|[²³])")
EQUAL = re.compile(r"[=≈]")
COMPARED = re.compile(r"[<>≤≥≠]|[!:]=|\\(?:[lg]eq?|neq?|[lg]t)(?![A-Za-z])")
ASSIGNED = re.compile(r"(?<![\w\\])[A-Za-z](?:_\w+|_\{\w+\})? ?=")

CODES = {  # of currencies, in front of an amount
    "usd", "us", "eur", "gbp", "inr", "rs", "jpy", "cny", "rmb", "cad", "ca", "aud", "au", "chf", "sgd", "hkd", "nzd",
    "krw", "mxn", "brl", "zar",
}  # fmt: skip
LABELS = {  # a number after them is a name
    "step", "part", "option", "choice", "question", "problem", "case", "example", "chapter", "section", "page", "line",
    "figure", "fig", "table", "explanation", "method", "approach", "verification",
}  # fmt: skip
LENGTHS = {  # units that may be squared
    "mm", "cm", "dm", "m", "km", "in", "ft", "yd", "mi", "inch", "inches", "foot", "feet", "yard", "yards", "mile",
    "miles", "unit", "units", "meter", "meters", "metre", "metres", "s", "sec", "centimeter", "centimeters", "centimetre",
    "centimetres", "millimeter", "millimeters", "kilometer", "kilometers", "kilometre", "kilometres",
}  # fmt: skip
GLUED = {  # units that stand behind a number without a space; longer words may too
    "am", "pm", "mm", "cm", "dm", "m", "km", "in", "ft", "yd", "mi", "mg", "g", "kg", "lb", "lbs", "oz", "ml", "cl", "l",
    "s", "sec", "secs", "min", "mins", "h", "hr", "hrs", "st", "nd", "rd", "th", "mph", "kph", "kmh", "fps", "rpm", "hz",
    "khz", "mhz", "ghz", "kw", "kwh", "gb", "mb", "tb", "kb", "kcal", "cal", "pts", "px", "usd", "eur", "gbp", "inr",
    "cad", "aud", "ms", "pc", "pcs", "day", "yr", "yrs",
}  # fmt: skip
ONE_LETTER = set("mghslLWVANJKCF")
NO_UNITS = {
    "or", "not", "no", "never", "nor", "isn't", "half", "halves", "thirds", "fourths", "fifths", "sixths", "sevenths",
    "eighths", "ninths", "tenths", "hundredths", "thousandths", "twice", "x", "pi", "squared", "cubed", "minus", "plus", "mod",
    "alpha", "beta", "gamma", "theta", "lambda", "factorial",
}  # fmt: skip
FUNCTIONS = {"sqrt", "root", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp"}
VARIABLES = re.compile(r"[xyzXYZ]+|[α-ωΑ-Ψ]")  # Ω is a unit
MAGNITUDES = {
    "hundred": 100, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "mn": 10**6, "crore": 10**7,
    "billion": 10**9, "bn": 10**9, "trillion": 10**12,
}  # fmt: skip
MAGNITUDE = re.compile(rf"[ -]?({'|'.join(MAGNITUDES)})s?(?!{LETTER})", re.IGNORECASE)


def is_before(text: str, sign: str) -> bool:
    """Whether there are currency, punctuation and words alone before a number, and no label, function or operator."""
    words = WORDS.findall(text.casefold())
    if not BEFORE.fullmatch(text) or (words and sign.endswith(" ")):
        return False
    if words and text[-1].isalpha() and (sign or words[-1] not in CODES):
        return False
    called = text.endswith("(") and text[-2:-1].isalpha()
    lone = (len(word) == 1 and word.isascii() and word not in "ai" for word in words)
    return not called and not any(lone) and not (NO_UNITS | FUNCTIONS) & set(words) and not (words and words[-1] in LABELS)


def is_after(text: str) -> bool:
    """Whether there are units, currency, punctuation and words alone after a number, and no variable, function or operator."""
    if not AFTER.fullmatch(text) or not LENGTHS.issuperset(POWERED.findall(text.casefold())):
        return False
    words = WORDS.findall(text)
    folded = [word.casefold() for word in words]
    if words and text[0].isalpha() and folded[0] not in GLUED and len(folded[0]) < 4:
        return False
    lone = [word for i, word in enumerate(words) if len(word) == 1 and word.isascii() and (word != "a" or words[i + 1 :] == [])]
    variables = any(VARIABLES.fullmatch(word) for word in words)
    no_units = NO_UNITS | FUNCTIONS - GLUED  # sec is a second
    return ONE_LETTER.issuperset(lone) and not variables and not no_units & set(folded)


def magnitude_of(text: str) -> tuple[int, str]:
    """The product of the magnitudes that a text after a number begins with, and what follows them: " hundred eggs" is 100."""
    product = 1
    while found := MAGNITUDE.match(text):
        product, text = product * MAGNITUDES[found[1].casefold()], text[found.end() :]
    return product, text


def multiplied(whole: str, above: str, below: str, product: int) -> str | None:
    """A number's parts times a magnitude, as NUMBER matches it; None for a power of ten besides, and a fraction over 0."""
    if "e" in above or (below and not Fraction(below)):
        return None
    return str((Fraction(whole or 0) + Fraction(above) / Fraction(below or 1)) * product)


def right_side(text: str) -> str:
    """What an equation comes to: 7 of "3 + 4 = 7", 5 of "x = 5"; other texts, and those with several unknowns, as they are."""
    sides = EQUAL.split(text)
    if len(sides) == 1 or COMPARED.search(text) or len(ASSIGNED.findall(text)) > 1:
        return text
    return sides[-1].strip() or text


def bare(text: str) -> str:
    r"""The number alone, as NUMBER matches it, of a text that states one and nothing else: "$1,000.00 a day" is 1000.00.

    Beside the number may stand units, currency, punctuation and words; of an equation its right side counts. Where more is left
    over (3x, 2\sqrt{3}, 3:30, 5 or 6) the plain text comes back, which NUMBER does not match. Nothing is worked out but
    magnitudes: 2.5 million is 2500000; dozens are a unit. What would need guessing is no number: 2 hours 30 minutes (150 or
    2.5?), 5 hundred-dollar bills, 5 t (tonnes or a variable?), 5k.
    """
    stated = re.sub(r"\*\*|__|`", " ", right_side(plain(text))).strip(" *_")
    found = PRINTED.search(stated)
    if found is None:
        return stated
    before, after = stated[: found.start()], stated[found.end() :]
    if before.endswith("*") and after.startswith("*"):
        before, after = before[:-1], after[1:]
    product, after = magnitude_of(after)
    if product > 1 and re.match(r"-\w", after):  # 5 hundred-dollar bills
        return stated
    share = None if found["denominator"] else SHARE.match(after)
    if not is_before(before, found["sign"] or "") or not is_after(after[share.end() :] if share else after):
        return stated
    sign = (found["sign"] or "").strip() + (found["inner"] or "")
    whole, above, below = (re.sub("[ ,']", "", found[name] or "") for name in ("whole", "numerator", "denominator"))
    above = above.lower().removesuffix(".")
    if product > 1:
        number = multiplied(whole, above, below, product)
        return stated if number is None else sign + number
    return f"{sign}{whole + ' ' if whole else ''}{above}{'/' + below if below else ''}"


# Numbers in running text

TUPLE = re.compile(r"[(\[] ?[-+0-9./]{1,40}(?: ?[,;] ?[-+0-9./]{1,40}){1,20} ?[)\]]")
AMOUNT = rf"(?<![\w.,^/])[-+]?[{CURRENCY}]?[0-9][0-9.,/]{{0,20}}"
FAMILIES = (  # units of which a quantity may have several: 5 feet 3 inches, 2 hours and 30 minutes
    "years?|months?|weeks?|days?|hours?|hrs?|h|minutes?|mins?|seconds?|secs?|s",
    "miles?|yards?|feet|foot|ft|inch(?:es)?|in|(?:kilo|centi|milli)?met(?:er|re)s?|[kcm]?m",
    "tons?|pounds?|lbs?|ounces?|oz|(?:kilo)?grams?|k?g",
    "gallons?|quarts?|pints?|cups?|(?:milli)?lit(?:er|re)s?|m?l",
    "|".join(f"{name}s?" for name in MAGNITUDES),
)
COMPOUND = "|".join(rf"{AMOUNT} ?(?:{units})(?:(?:,? and|,)? {AMOUNT} ?(?:{units})\b){{1,5}}" for units in FAMILIES[:-1])
ALSO = r"(?: ?[,;](?: and| or)?| and| or) ?"
ASSIGNMENT = r"(?<![\w\\])[A-Za-z](?:_\w{1,9}|_\{\w{1,9}\})? ?= ?[^\s,;=]{1,40}"
TOGETHER = re.compile(  # what is one expression, though it has spaces
    rf"{COMPOUND}|{AMOUNT} (?:{FAMILIES[-1]})(?:,? and)? {AMOUNT}"
    rf"|{AMOUNT}(?: {LETTER}{{1,20}})? (?:to|or|through) {AMOUNT}|\bbetween {AMOUNT}(?: {LETTER}{{1,20}})? and {AMOUNT}"
    rf"|{ASSIGNMENT}(?:{ALSO}{ASSIGNMENT}){{1,9}}"
    r"|\b[0-9]{1,2}:[0-9]{2} ?[AaPp]\.? ?[Mm]\b",
)
GLUE = "\u00a0"  # no plain text has one
ASIDE = re.compile(  # how an amount was reckoned: $42.00 ($21.00 x 2)
    rf"([{CURRENCY}] ?[0-9.,]{{1,20}}|[0-9] {LETTER}{{3,20}})"
    rf" \([^()=]{{0,60}}[0-9] ?[-+*/×÷x] ?[{CURRENCY}]?[0-9][^()=]{{0,60}}\)(?=\W*$)"
)
SIGNS = {"plus": "+", "minus": "-", "times": "×"}
SPOKEN = re.compile(rf"(?<=[0-9] )(?:plus|minus|times)(?= [{CURRENCY}]?[0-9])")
WITH_AND = re.compile(r"(?<=[0-9]) and (?=[0-9]+ ?/ ?[0-9])")  # 1 and 1/2
NAMED = re.compile(r"[^\W\d_][\w'-]*")  # H2O, x_1: a name with a digit in it
OPERATOR = re.compile(r"[-+*/^×÷·±x:<>≤≥≠]|[!<>]=|\\(?:times|cdot|div|pm|[lg]eq?|neq?|[lg]t)")
OPENS, CLOSES = re.compile(r".*(?:[*/^×÷+]|\\times|\\cdot|\\div)"), re.compile(r"[*/^×÷·√²³]|\\[A-Za-z]")
GROUP, MIXED = re.compile(r"[0-9]{3}(?![0-9])"), re.compile(r"[0-9]+/[0-9]")
SHORT = re.compile(rf"[(\[{CURRENCY}+-]{{0,3}}[0-9]{{1,3}}(?:[ ,'][0-9]{{3}})*")
EDGES = ",;:!?…\"'`*_ "


def is_operand(word: str) -> bool:
    """Whether a word may stand beside an operator: it has a digit, is LaTeX, or a variable."""
    core = word.strip("$()")
    return any(c in "0123456789" for c in core) or core.startswith("\\") or (len(core) == 1 and core.isalpha())


def joined(words: list[str], i: int) -> bool:
    """Whether word i and the next are parts of one number or one expression."""
    first, second = words[i], words[i + 1]
    third, digit = words[i + 2] if i + 2 < len(words) else "", second[0] in "0123456789"
    if OPERATOR.fullmatch(first) and not (first == "x" and (not i or not is_operand(words[i - 1]))):
        sign = first in "+-" and (digit or second[0] in CURRENCY)
        return (is_operand(second) and (is_operand(words[i - 1]) if i else sign)) or (sign and words[i - 1][-1] in "=:(")
    if first in CURRENCY or (first[-1] in "=" and first != "="):
        return digit
    if has_magnitude(second) and (first[-1] in "0123456789" or has_magnitude(first)):
        return True
    if first.casefold() == "not" or re.split("[_^]", first.lstrip("\\"))[0] in FUNCTIONS:
        return is_operand(second)
    if not is_operand(first):
        return False
    lone = len(second) == 1 and second.isalpha() and second not in ONE_LETTER and second not in "aI"
    if OPERATOR.fullmatch(second) and is_operand(third):
        return True
    if lone or CLOSES.match(second) or (OPENS.fullmatch(first) and is_operand(second)):
        return True
    grouped = GROUP.match(second) and SHORT.fullmatch(first)
    mixed = MIXED.match(second) and first.lstrip(f"({CURRENCY}+-").isdigit()
    return bool(grouped or mixed)


def has_magnitude(word: str) -> bool:
    """Whether a word is a magnitude: million, hundreds."""
    return word.strip(EDGES + ".").casefold().removesuffix("s") in MAGNITUDES


def around(words: list[str], at: int) -> str:
    """The number or expression that a word is a part of, without the punctuation around it."""
    start, stop = at, at
    while start and joined(words, start - 1):
        start -= 1
    while stop + 1 < len(words) and joined(words, stop):
        stop += 1
    found = " ".join(words[start : stop + 1])
    for opening, closing in ("()", "[]", "{}"):
        if found.count(opening) < found.count(closing):
            found = found.rstrip(EDGES + ".").removesuffix(closing)
        elif found.count(opening) > found.count(closing):
            found = found.removeprefix(opening)
    return right_side(found.replace(GLUE, " ").strip(EDGES))


def stated_in(line: str) -> tuple[list[str], list[int]]:
    """The words of a line, what belongs TOGETHER as one word, and which of them state numbers."""
    line = ASIDE.sub(r"\1", SPOKEN.sub(lambda found: SIGNS[found[0]], WITH_AND.sub(" ", line)))
    line = TOGETHER.sub(lambda found: found[0].replace(" ", GLUE), line)
    line = TUPLE.sub(lambda found: found[0].replace(" ", ""), line)
    words = [word for word in line.replace(" ^", "^").split(" ") if word]
    edges = f"{EDGES}.()[]{{}}"
    cores = [word.strip(edges) for word in words]
    has_digit = (i for i, word in enumerate(words) if any(c in "0123456789" for c in word))
    return words, [i for i in has_digit if is_code(cores[i]) or not (NAMED.fullmatch(cores[i]) or is_unit(cores[i]))]


def is_unit(word: str) -> bool:
    """Whether a word is a unit with a power: m/s^2."""
    powered = POWERED.findall(word.casefold())
    return powered != [] and AFTER.fullmatch(word) is not None and LENGTHS.issuperset(powered)


def is_code(word: str) -> bool:
    """Whether a word is a currency's code with an amount: USD18."""
    return word.rstrip("0123456789.,").casefold() in CODES


def first_stated(text: str) -> str | None:
    """The first number of a sentence, with the expression that it is a part of; None without a number."""
    for i, line in enumerate(right_side(plain(text)).split("\n")):
        words, numbers = stated_in(line.removeprefix("- ") if i else line)
        if numbers:
            return around(words, numbers[0])
    return None


def last_stated(text: str) -> str | None:
    """The last number of a text, with the expression that it is a part of; None without a number. A list's mark is no minus."""
    lines = plain(text).split("\n")
    for line in reversed(lines):
        words, numbers = stated_in(line)
        if words and words[0] in "-+*" and (len(words) > 2 or len(lines) > 1):
            words, numbers = words[1:], [i - 1 for i in numbers]
        if numbers:
            return around(words, numbers[-1])
    return None
