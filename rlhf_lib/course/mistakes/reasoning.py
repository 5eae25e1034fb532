"""Named mistakes of chapter 6."""

from rlhf_lib.course.bank import Mistake, mistake

TAGGED = (
    'end = completion.rfind("</answer>")\n'
    '    start = completion.rfind("<answer>", 0, end) if end >= 0 else -1\n'
    '    return completion[start + len("<answer>") : end] if start >= 0 else None'
)
HASHES = "return answers[-1] if answers else None"
LINES = 'lines = [part.split("\\n", 1)[0] for part in parts]'
HEADINGS = "not answers and lines and not ANSWERING.search(parts[-1], len(lines[-1]))"


def tagged(when: str, body: str) -> Mistake:
    """A mistake that writes extract_tagged anew."""
    return mistake(when, (TAGGED, body))


MATCHED = "NUMBER.fullmatch(bare(text)) if len(text) <= LONGEST_ANSWER else None"
PART = 'Fraction(match["numerator"]) / Fraction(match["denominator"] or 1)'
SIZE = 'Fraction(match["whole"] or 0) + Fraction(match["numerator"])'
SIGNED = 'return -size if match["sign"] == "-" else size'

CONVENTION = '"letter" if convention == "any" else convention'
SAME = "same_answer(answer, read_reference(reference))"
FIRST = 'next(filter(None, found), "" if found else None)'

ONE = "parse_number(tagged_answer(text)) is not None"
TRAILING = 'trailing = len(text.split("\\n</answer>\\n")[-1]) * opened + (len(text.split("\\n</answer>")[-1]) - 1) * closed'

SHOTS = 'while shots and count_tokens("".join(shots) + asked) > room:\n        shots = shots[1:]'
WHOLE = 'count_tokens("".join(shots) + asked) > room'

PLAIN_PROMPT = 'tokenizer(prompt, add_special_tokens=False)["input_ids"]'
PLAIN_SOLUTION = 'tokenizer(solution, add_special_tokens=False)["input_ids"]'
NEEDS_BOS = "if prepend_bos and bos is not None and before[:1] != [bos]:"
RETURNED = "return before + learned, [0] * len(before) + [1] * len(learned)"

PICKED = "logits[:, :-1].float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)"
AVERAGED = "-(logprobs.masked_fill(mask == 0, 0.0)).sum() / mask.sum().clamp(min=1)"

PENALTY = "hide(logprobs.detach() - ref_logprobs.detach(), mask)"
PAID = "last_real_token(mask) * scores[:, None] - kl_coef * penalty"

TOKEN_REWARDS = "compute_token_rewards(rewards, scores.logprobs, scores.ref_logprobs, args.kl_reward_coef, mask=mask)"
BEGUN = "args, mask = self.args, sampled.mask"
KEPT = "return compute_gae(scores.values, token_rewards, sampled.prefix_len, **options)"

CHOSEN = "best = max(totals, key=lambda answer: totals[answer])"
SUMMED = "totals[answer] += weight"

BANK: dict[str, list[Mistake]] = {
    "tagged_and_hashes": [
        mistake(
            "it reaches from the first <answer> to the last </answer>, as a greedy pattern does",
            ('completion.rfind("<answer>", 0, end)', 'completion.find("<answer>", 0, end)'),
        ),
        mistake(
            "the first closed pair is taken, not the last", ('completion.rfind("</answer>")', 'completion.find("</answer>")')
        ),
        mistake(
            "the last <answer> is taken even if it comes after the last </answer>",
            ('completion.rfind("<answer>", 0, end) if end >= 0 else -1', 'completion.rfind("<answer>") if end >= 0 else -1'),
        ),
        tagged(
            "text is split at the tags without asking whether they are there, so that a text without tags answers itself",
            'return completion.split("<answer>")[-1].split("</answer>")[0]',
        ),
        tagged(
            "an <answer> that is never closed counts, to the end of the text",
            'start = completion.rfind("<answer>")\n'
            '    return completion[start + len("<answer>") :].split("</answer>")[0] if start >= 0 else None',
        ),
        tagged(
            "the pattern's dot matches no line break, so that an answer on a line of its own is not found",
            'found = re.findall("<answer>(.*?)</answer>", completion)\n    return found[-1] if found else None',
        ),
        tagged(
            "the pattern starts at the first <answer> that was left open, and takes another tag for a part of the answer",
            'found = re.findall("<answer>(.*?)</answer>", completion, re.DOTALL)\n    return found[-1] if found else None',
        ),
        tagged(
            "the pattern admits digits only",
            'found = re.findall(r"<answer>\\s*([0-9.,]+)\\s*</answer>", completion)\n    return found[-1] if found else None',
        ),
        mistake(
            "the tags stay around the answer", ('completion[start + len("<answer>") : end]', "completion[start : end + 9]")
        ),
        mistake(
            "a text without tags gives an empty text, not None",
            (
                'completion[start + len("<answer>") : end] if start >= 0 else None',
                'completion[start + 8 : end] if start >= 0 else ""',
            ),
        ),
        mistake(
            "an empty pair of tags gives None, not an empty text",
            (
                'completion[start + len("<answer>") : end] if start >= 0 else None',
                "(completion[start + 8 : end] or None) if start >= 0 else None",
            ),
        ),
        mistake("what follows the first #### is taken, not the last", (HASHES, HASHES.replace("-1", "0"))),
        mistake("everything after #### is taken, not its line alone", (LINES, "lines = parts")),
        mistake("three hashes are taken for four", ('rsplit("####"', 'rsplit("###"')),
        mistake("the hashes stay in front of the answer", (HASHES, 'return f"#### {answers[-1]}" if answers else None')),
        mistake(
            "the whole text is returned where #### is missing",
            (HASHES, "return answers[-1] if answers else None if lines else completion"),
        ),
        mistake(
            "a text without #### gives an empty text, not None",
            (HASHES, 'return answers[-1] if answers else "" if not lines else None'),
        ),
        mistake(
            "an answer on the line below #### is not found",
            ("[part.strip() for part in", "[part.strip(' ') for part in"),
        ),
        mistake("a heading is taken for an answer", (f"if {HEADINGS}:", "if not answers and lines:")),
        mistake(
            "the last line after #### counts, though it is a heading and an earlier one states a number",
            ("[line for line in lines if not is_heading(line)]", "[line for line in lines[-1:] if not is_heading(line)]"),
        ),
        mistake(
            "a digit in the heading itself is taken for an answer that follows it",
            ("ANSWERING.search(parts[-1], len(lines[-1]))", "ANSWERING.search(parts[-1])"),
        ),
        mistake("of many #### the first are looked at, not the last", ('completion.rsplit("####"', 'completion.split("####"')),
        mistake("a text that is no number is always taken for a heading", (f"if {HEADINGS}:", "if False:")),
        mistake(
            "only a number in digits is read after ####, and the unit is dropped",
            (HASHES, 'return re.findall("[0-9,.]*", answers[-1])[0] if answers else None'),
        ),
    ],
    "parse_number": [
        mistake(
            "a float is made on the way, which rounds 0.1 to the nearest binary fraction",
            ('Fraction(match["numerator"])', 'Fraction(float(match["numerator"]))'),
        ),
        mistake("a float is returned, not a Fraction", (SIGNED, 'return float(-size if match["sign"] == "-" else size)')),
        mistake("decimals are cut off", ('Fraction(match["numerator"])', 'Fraction(int(Fraction(match["numerator"])))')),
        mistake(
            "an expression counts by its first number: 2\\sqrt{3} is 2, and 5 or 6 is 5",
            ("NUMBER.fullmatch(bare(text))", "NUMBER.search(bare(text))"),
        ),
        mistake(
            "what begins with a number counts: 3x is 3, and \\sqrt{3} is none",
            ("NUMBER.fullmatch(bare(text))", "NUMBER.match(bare(text))"),
        ),
        mistake(
            "the last of several numbers is taken",
            (MATCHED, "([None, *NUMBER.finditer(bare(text))] if len(text) <= LONGEST_ANSWER else [None])[-1]"),
        ),
        mistake(
            "the text must be a number and nothing else: no unit, no currency, no full stop",
            ("bare(text)", "text.strip()"),
        ),
        mistake(
            "everything that is no digit is taken out beforehand, so that 12 + 5 becomes 125",
            ("bare(text)", 're.sub("[^-+0-9./e]", "", bare(text))'),
        ),
        mistake(
            "a group that took no part is None, of which no Fraction can be made", ('match["whole"] or 0', 'match["whole"]')
        ),
        mistake("the sign is lost", (SIGNED, "return size")),
        mistake("every sign is taken for a minus", (SIGNED, 'return -size if match["sign"] else size')),
        mistake(
            "the sign belongs to the whole part alone, so that -1 1/2 is -1/2",
            (SIGNED, 'return size - 2 * Fraction(match["whole"] or size) if match["sign"] == "-" else size'),
        ),
        mistake("a percent sign divides by 100", (SIGNED, f"size = size / 100 if '%' in text else size\n    {SIGNED}")),
        mistake("the denominator is dropped: 1/2 is 1", (' / Fraction(match["denominator"] or 1)', "")),
        mistake(
            "fraction and denominator change places",
            (PART, 'Fraction(match["denominator"] or 1) / Fraction(match["numerator"])'),
        ),
        mistake("the whole part of a mixed number is dropped: 1 1/2 is 1/2", (SIZE, 'Fraction(match["numerator"])')),
        mistake(
            "a mixed number is multiplied: 3 1/2 is 3/2",
            (SIZE, 'Fraction(match["whole"] or 1) * Fraction(match["numerator"])'),
        ),
        mistake(
            "of a mixed number the whole part alone is read", (f"{SIZE}", 'Fraction(match["whole"] or match["numerator"])')
        ),
        mistake("a fraction over 0 raises an error", ("except ZeroDivisionError", "except KeyError")),
        mistake(
            "a fraction over 0 is 0",
            ("except ZeroDivisionError:\n        return None", "except ZeroDivisionError:\n        return Fraction(0)"),
        ),
        mistake(
            "exponents are dropped: 1e3 is 1", ('Fraction(match["numerator"])', 'Fraction(match["numerator"].split("e")[0])')
        ),
        mistake("an exponent has no limit", ('abs(int(match["exponent"] or 0)) > LARGEST_EXPONENT', "False")),
        mistake("only exponents above 0 have a limit", ('abs(int(match["exponent"] or 0))', 'int(match["exponent"] or 0)')),
        mistake("the largest exponent, 300, is refused as well", ("> LARGEST_EXPONENT", ">= LARGEST_EXPONENT")),
        mistake(
            "a text that is too long is cut, and its beginning read", (MATCHED, "NUMBER.fullmatch(bare(text[:LONGEST_ANSWER]))")
        ),
        mistake("a text of exactly 200 characters is refused", ("len(text) <= LONGEST_ANSWER", "len(text) < LONGEST_ANSWER")),
        mistake("the length of a text has no limit", (MATCHED, "NUMBER.fullmatch(bare(text))")),
        mistake(
            "a text without a number gives 0, not None",
            ("LARGEST_EXPONENT:\n        return None", "LARGEST_EXPONENT:\n        return Fraction(0)"),
        ),
        mistake(
            "the text is evaluated as code: sums are worked out, and a hostile text does what it likes",
            (
                "match = ",
                "try:\n        return Fraction(str(eval(text)))\n    except BaseException:\n        pass\n    match = ",
            ),
        ),
    ],
    "answers_match": [
        mistake(
            "a key of 0 is taken for none, so that 0 and 0.0 are different texts",
            ("if number is not None:\n        return number", "if number:\n        return number"),
        ),
        mistake("answers are compared as texts, so that 18.0 is not 18", (SAME, "answer == read_reference(reference)")),
        mistake(
            "the reference is taken as it stands, so that a worked solution is one long answer",
            ("read_reference(reference)", "reference"),
        ),
        mistake(
            "the completion's convention is applied to the reference",
            ("read_reference(reference)", "extract_answer(reference, convention) or reference"),
        ),
        mistake(
            'of a reference the last number counts, though it is a part of the answer: "2, 30" is 30',
            ("read_reference(reference)", "extract_answer(reference) or reference"),
        ),
        mistake(
            "the convention is dropped on the way: every completion is searched for everything",
            ("answer = extract_answer(completion, convention)", "answer = extract_answer(completion)"),
        ),
        mistake(
            "the right answer may stand anywhere in the completion",
            (f"answer is not None and {SAME}", "read_reference(reference) in completion"),
        ),
        mistake("a completion without an answer is right", (f"answer is not None and {SAME}", f"answer is None or {SAME}")),
        mistake("a completion without an answer raises an error", (f"answer is not None and {SAME}", SAME)),
        mistake("a reference of several lines does not equal itself", ("is_literal(completion, reference)", "False")),
        mistake(
            "the reference as it stands is right under every convention",
            ('if convention == "any" and is_literal', "if is_literal"),
        ),
        mistake("a text without number and mark is no answer", ('if convention == "any" and answer is None:', "if False:")),
        mistake(
            "all of the text is the answer where a convention by name finds none",
            ('if convention == "any" and answer is None:', "if answer is None:"),
        ),
        mistake(
            "an option's letter gets no treatment of its own",
            ("is_option(reference)", "False"),
        ),
        mistake(
            'a letter in brackets, "(C)", is not seen to be an option',
            ("is_option(reference)", "len(reference) == 1 and option_letter(reference)"),
        ),
        mistake("a letter is looked for where numbers are, in the usual order", (CONVENTION, "convention")),
        mistake("a letter is looked for everywhere, whatever the convention", (CONVENTION, '"letter"')),
        mistake(
            "letters are compared with their case and brackets",
            ("option_letter(answer) == option_letter(reference)", "answer == reference"),
        ),
        mistake(
            "the options' letters are compared, but only where the answer names one: None equals everything",
            ("option_letter(answer) == option_letter(reference)", "option_letter(answer) in (None, option_letter(reference))"),
        ),
        mistake(
            "the last mark that holds something is taken, not the first",
            (FIRST, "([None, *found[:1], *filter(None, found)])[-1]"),
        ),
        mistake(
            "an empty <answer></answer> is passed over, and a number from elsewhere counts",
            ("(answer := extract(text)) is not None", "(answer := extract(text))"),
        ),
        mistake("an empty <answer></answer> hides what stands after ####", (FIRST, "found[0] if found else None")),
        mistake("only the first mark is tried", ("for extract in MARKS.values()", "for extract in [extract_tagged]")),
        mistake(
            "a convention that does not exist gives None, not an error",
            (
                "raise InputError(f\"convention={convention!r} does not exist; use any, {', '.join(known)}\")",
                "return None",
            ),
        ),
        mistake(
            "a convention that does not exist raises a KeyError, not an InputError",
            ("if convention not in known:", "if False:"),
        ),
        mistake(
            "a convention by name that finds nothing raises an error: None has no strip",
            ("None if answer is None else answer.strip()", "answer.strip()"),
        ),
        mistake('the convention "letter" is forgotten', ("known = {**CONVENTIONS, **LETTERS}", "known = CONVENTIONS")),
        mistake(
            "the space around an answer is kept",
            ("[answer.strip() for extract in", "[answer for extract in"),
            ("None if answer is None else answer.strip()", "answer"),
        ),
        mistake(
            "the space around an answer is kept under a convention by name",
            ("None if answer is None else answer.strip()", "answer"),
        ),
        mistake("answers without a number have no key, and never match", ("return as_text(answer) or None", "return None")),
        mistake("the case of a text is kept", ("as_text(answer)", "answer.strip()")),
        mistake("the space around a text is kept", ("as_text(answer)", "answer.casefold()")),
        mistake("LaTeX's \\text{} is a part of the text", ("as_text(answer)", "answer.strip().casefold()")),
        mistake("an empty text has a key, and equals itself", ("as_text(answer) or None", "as_text(answer)")),
        mistake("a text of any length has a key", (" if len(answer) <= LONGEST_ANSWER else None", "")),
        mistake(
            "a text of exactly 200 characters has no key", ("len(answer) <= LONGEST_ANSWER", "len(answer) < LONGEST_ANSWER")
        ),
        mistake(
            "the key of a number is a float, so that 1/3 equals 0.3333333333333333",
            ("return number\n", "return float(number)\n"),
        ),
        mistake("the key is always the text, even of a number", ("if number is not None:", "if False:")),
    ],
    "five_rewards": [
        mistake(
            "the text that follows the last closing tag counts at least 0, also where its free line break is missing",
            ('(len(text.split("\\n</answer>")[-1]) - 1) * closed', 'max(0, len(text.split("\\n</answer>")[-1]) - 1) * closed'),
        ),
        mistake(
            "answers are compared as texts, so that $18.00 is not 18",
            ('answers_match(text_of(completion), right, "xml")', "tagged_answer(completion) == right"),
        ),
        mistake("a right answer is paid for without the tags", ('right, "xml")', "right)")),
        mistake(
            "the right answer may stand anywhere in the completion",
            ('answers_match(text_of(completion), right, "xml")', "right in text_of(completion)"),
        ),
        mistake("a right answer earns 1, not 2", ("2.0 if", "1.0 if")),
        mistake("a wrong answer costs 2", ('right, "xml") else 0.0', 'right, "xml") else -2.0')),
        mistake(
            "every completion is compared with the first answer",
            ("zip(completions, answer, strict=True)", "zip(completions, answer[:1] * len(completions), strict=True)"),
        ),
        mistake(
            "isdigit is asked, which takes 4² for digits",
            ('re.fullmatch("[0-9]+", tagged_answer(completion))', "tagged_answer(completion).isdigit()"),
        ),
        mistake(
            "an answer that begins with digits is paid for, whatever follows", ('re.fullmatch("[0-9]+"', 're.match("[0-9]+"')
        ),
        mistake("an answer with digits anywhere is paid for", ('re.fullmatch("[0-9]+"', 're.search("[0-9]+"')),
        mistake("negative numbers are paid for", ('"[0-9]+"', '"-?[0-9]+"')),
        mistake("decimals are paid for", ('"[0-9]+"', '"[0-9]+(\\\\.[0-9]*)?"')),
        mistake("thousands separators are paid for", ('"[0-9]+"', '"[0-9,]+"')),
        mistake("an empty answer, or none, is paid for", ('"[0-9]+"', '"[0-9]*"')),
        mistake(
            "digits are looked for in the whole completion, not in its answer",
            ("tagged_answer(completion))", "text_of(completion).strip())"),
        ),
        mistake("a whole number earns 1, not 0.5", ('0.5 if re.fullmatch("[0-9]+"', '1.0 if re.fullmatch("[0-9]+"')),
        mistake("the strict format admits several lines", ("STRICT.fullmatch", "MULTILINE.fullmatch")),
        mistake("the strict format admits text behind it", ("STRICT.fullmatch", "STRICT.match")),
        mistake("the strict format may stand anywhere", ("STRICT.fullmatch", "STRICT.search")),
        mistake(
            "a missing last line break is forgiven by the strict format",
            ("STRICT.fullmatch(text_of(completion))", 'STRICT.fullmatch(text_of(completion).strip() + "\\n")'),
        ),
        mistake("the strict format earns 1, not 0.5", ("0.5 if STRICT", "1.0 if STRICT")),
        mistake("the strict pattern is used for the soft format", ("SOFT.match", "STRICT.match")),
        mistake("the soft format may begin anywhere", ("SOFT.match", "SOFT.search")),
        mistake("the soft format admits nothing behind it", ("SOFT.match", "SOFT.fullmatch")),
        mistake(
            "the soft pattern's dot matches no line break, as in the first copies of the recipe",
            ("SOFT.match(text_of(completion))", "re.match(SOFT.pattern, text_of(completion))"),
        ),
        mistake(
            "the soft format forgives space in front",
            ("SOFT.match(text_of(completion))", "SOFT.match(text_of(completion).strip())"),
        ),
        mistake("the soft format earns 1, not 0.5", ("0.5 if SOFT", "1.0 if SOFT")),
        mistake(
            "a tag that stands more than once still counts",
            ('(text.count("<reasoning>\\n") == 1)', '("<reasoning>\\n" in text)'),
        ),
        mistake(
            "tags are counted without their line breaks",
            ('text.count("<reasoning>\\n")', 'text.count("<reasoning>")'),
            ('text.count("\\n</reasoning>\\n")', 'text.count("</reasoning>")'),
            ('text.count("\\n<answer>\\n")', 'text.count("<answer>")'),
            ('text.count("\\n</answer>")', 'text.count("</answer>")'),
        ),
        mistake("a tag earns 0.25, not 0.125", ("0.125 * found", "0.25 * found")),
        mistake("trailing text costs nothing", (" - 0.001 * trailing", "")),
        mistake("trailing text earns something", ("- 0.001 * trailing", "+ 0.001 * trailing")),
        mistake("a character of trailing text costs 0.01, not 0.001", ("0.001 * trailing", "0.01 * trailing")),
        mistake(
            "trailing text is counted once, after the whole closing line",
            (' + (len(text.split("\\n</answer>")[-1]) - 1) * closed', ""),
        ),
        mistake(
            "trailing text is counted once, after the closing tag", ('len(text.split("\\n</answer>\\n")[-1]) * opened + ', "")
        ),
        mistake(
            "the line break after </answer> costs like trailing text",
            ('(len(text.split("\\n</answer>")[-1]) - 1)', 'len(text.split("\\n</answer>")[-1])'),
        ),
        mistake(
            "trailing text costs even where the tags do not count",
            (TRAILING, TRAILING.replace(" * opened", "").replace(" * closed", "")),
        ),
        mistake(
            "trailing text begins after the first closing tag, not after the last",
            ('len(text.split("\\n</answer>\\n")[-1]) * opened', 'len(text.split("\\n</answer>\\n", 1)[-1]) * opened'),
        ),
        mistake(
            "the reward for tags stops at 0",
            ("return 0.125 * found - 0.001 * trailing", "return max(0.0, 0.125 * found - 0.001 * trailing)"),
        ),
        mistake(
            "a list of messages is not opened: the format is looked for in the list itself",
            ("SOFT.match(text_of(completion))", "SOFT.match(str(completion))"),
        ),
    ],
    "hardened_format": [
        mistake(
            "reasoning of several lines is refused", ("MULTILINE.fullmatch(text)", 're.fullmatch(STRICT.pattern + "?", text)')
        ),
        mistake("text behind the format is admitted", ("MULTILINE.fullmatch(text)", "MULTILINE.match(text)")),
        mistake("text before the format is admitted, and behind it", ("MULTILINE.fullmatch(text)", "MULTILINE.search(text)")),
        mistake(
            "the line breaks of the format are not asked for",
            ("MULTILINE.fullmatch(text)", 're.fullmatch(SOFT.pattern + r"\\n?", text, re.DOTALL)'),
        ),
        mistake(
            "the format is not asked for, only that every tag stands once",
            ("not MULTILINE.fullmatch(text) or any(", "any("),
        ),
        mistake("space around the format is forgiven", ("MULTILINE.fullmatch(text)", "MULTILINE.fullmatch(text.strip())")),
        mistake(
            "the last line break is required",
            ("MULTILINE.fullmatch(text)", 'MULTILINE.fullmatch(text) or not text.endswith("\\n")'),
        ),
        mistake(
            "tags are not counted: a second answer, or a second block, is admitted",
            (" or any(text.count(tag) != 1 for tag in TAGS)", ""),
        ),
        mistake("only the answer's tags are counted", ("for tag in TAGS", "for tag in TAGS[2:]")),
        mistake("only the reasoning's tags are counted", ("for tag in TAGS", "for tag in TAGS[:2]")),
        mistake("only opening tags are counted", ("for tag in TAGS", "for tag in TAGS[::2]")),
        mistake("the reasoning may be empty", ("len(reasoning) >= LEAST_REASONING and ", "")),
        mistake("8 characters of reasoning are refused: > in place of >=", ("len(reasoning) >=", "len(reasoning) >")),
        mistake("space counts as reasoning", ('.removeprefix("<reasoning>").strip()', '.removeprefix("<reasoning>")')),
        mistake(
            "of a long answer the beginning is read",
            ("parse_number(tagged_answer(text))", "parse_number(tagged_answer(text)[:200])"),
        ),
        mistake("an answer of exactly 200 characters is refused", (ONE, f"{ONE} and len(tagged_answer(text)) < 200")),
        mistake("a list of guesses is admitted", (ONE, 're.search("[0-9]", tagged_answer(text)) is not None')),
        mistake("an answer without a number is admitted", (ONE, f"({ONE} or not re.search('[0-9]', tagged_answer(text)))")),
        mistake("the answer is not looked at", (f" and {ONE}", "")),
        mistake(
            "runs of digits are counted, not numbers, so that 18.50 and 1,000 look like lists",
            (ONE, 'len(re.findall("[0-9]+", tagged_answer(text))) == 1'),
        ),
        mistake(
            "the answer must be a whole number in digits alone",
            (ONE, 're.fullmatch("[0-9]+", tagged_answer(text)) is not None'),
        ),
        mistake("units are refused", (ONE, f"{ONE} and not re.search('[a-z]', tagged_answer(text))")),
        mistake(
            "the number is looked for in the whole text, reasoning included",
            ("parse_number(tagged_answer(text))", "parse_number(text)"),
        ),
    ],
    "build_few_shot_prompt": [
        mistake(
            "examples are left out from the end, so that those nearest to the question go first",
            ("shots = shots[1:]", "shots = shots[:-1]"),
        ),
        mistake("a prompt that fills the room exactly is shortened: >= in place of >", ("> room", ">= room")),
        mistake("the question's own tokens are not counted", (WHOLE, 'count_tokens("".join(shots)) > room')),
        mistake(
            "pieces are counted one by one and added up",
            (WHOLE, "sum(map(count_tokens, [*shots, asked])) > room"),
        ),
        mistake("characters are counted, not tokens", (WHOLE, 'len("".join(shots) + asked) > room')),
        mistake("nothing is ever left out", (WHOLE, "False")),
        mistake("all examples go as soon as the prompt is too long", ("shots = shots[1:]", "shots = []")),
        mistake("at most one example is left out", (SHOTS, f"if shots and {WHOLE}:\n        shots = shots[1:]")),
        mistake(
            "an example that does not fit is passed over, and earlier ones fill the room",
            (
                SHOTS,
                "kept = []\n    for shot in reversed(shots):\n"
                '        if count_tokens("".join([shot, *kept]) + asked) <= room:\n            kept = [shot, *kept]\n'
                "    shots = kept",
            ),
        ),
        mistake(
            "the examples' order is turned round", ("for q, solution in examples]", "for q, solution in reversed(examples)]")
        ),
        mistake("no empty line stands after an example", ("{solution}\\n\\n", "{solution}\\n")),
        mistake("the question stands before the examples", ('return "".join(shots) + asked', 'return asked + "".join(shots)')),
        mistake(
            "the prompt ends after the question, without its line Answer:",
            ("asked = question_text(question)", 'asked = f"Question: {question}\\n"'),
        ),
        mistake(
            "the line break after the last Answer: is missing",
            ('return "".join(shots) + asked', 'return "".join(shots) + asked.rstrip()'),
        ),
        mistake("the examples' solutions are missing", ("{question_text(q)}{solution}\\n\\n", "{question_text(q)}\\n\\n")),
        mistake("the examples have no labels", ("{question_text(q)}{solution}", "{q}\\n{solution}")),
        mistake(
            "a question that is too long is cut to the room",
            (
                'return "".join(shots) + asked',
                'return "".join(shots) + (asked if shots or count_tokens(asked) <= room else asked[:room])',
            ),
        ),
        mistake(
            "a question that is too long gives an empty prompt",
            ('return "".join(shots) + asked', 'return "".join(shots) + asked if shots or count_tokens(asked) <= room else ""'),
        ),
    ],
    "encode_example": [
        mistake(
            "the mask is 1 everywhere, so that the model is trained to write questions, too",
            ("[0] * len(before)", "[1] * len(before)"),
        ),
        mistake(
            "the end has mask 0, so that the model never learns to stop",
            ("[1] * len(learned)", "[1] * (len(learned) - (end_id is not None)) + [0] * (end_id is not None)"),
        ),
        mistake("the end is left out", ("learned = [*learned, end_id]", "pass")),
        mistake("an end_id of 0 is taken for none", ("if end_id is not None:", "if end_id:")),
        mistake("None stands at the end where no end is wanted", ("if end_id is not None:", "if True:")),
        mistake(
            "the prompt is tokenised with special tokens, so that an end of sequence stands before the solution",
            (PLAIN_PROMPT, 'tokenizer(prompt)["input_ids"]'),
        ),
        mistake(
            "the solution is tokenised with special tokens, so that a beginning of sequence stands before it",
            (PLAIN_SOLUTION, 'tokenizer(solution)["input_ids"]'),
        ),
        mistake(
            "prompt and solution are tokenised as one text, whose tokens are not those that sampling meets",
            (
                PLAIN_SOLUTION,
                'tokenizer(prompt + solution, add_special_tokens=False)["input_ids"][len(before) :]',
            ),
        ),
        mistake("the beginning of sequence is missing", (NEEDS_BOS, "if False:")),
        mistake(
            "a second beginning of sequence is put before a prompt that begins with one",
            (NEEDS_BOS, "if prepend_bos and bos is not None:"),
        ),
        mistake(
            "the beginning is left out where the prompt holds such a token anywhere, not only in front",
            (NEEDS_BOS, "if prepend_bos and bos is not None and bos not in before:"),
        ),
        mistake(
            "the prompt's first token is read although a prompt may have none",
            (NEEDS_BOS, "if prepend_bos and bos is not None and before[0] != bos:"),
        ),
        mistake(
            "the beginning of sequence has mask 1, too",
            (
                RETURNED,
                RETURNED.replace("[0] * len(before)", "[int(i == 0 and first == bos) for i, first in enumerate(before)]"),
            ),
        ),
        mistake("prepend_bos is ignored", (NEEDS_BOS, "if bos is not None and before[:1] != [bos]:")),
        mistake(
            "a tokenizer without a beginning of sequence puts None in front",
            (NEEDS_BOS, "if prepend_bos and before[:1] != [bos]:"),
        ),
        mistake(
            "a beginning of sequence whose id is 0 is taken for none",
            (NEEDS_BOS, "if prepend_bos and bos and before[:1] != [bos]:"),
        ),
        mistake(
            "the mask is shifted by one already, so that the last token of the prompt is learned and the end is not",
            (RETURNED, "return before + learned, [0] * (len(before) - 1) + [1] * len(learned) + [0]"),
        ),
        mistake(
            "the mask does not count the beginning of sequence and is one entry short",
            ("[0] * len(before)", "[0] * (len(before) - (before[:1] == [bos]))"),
        ),
        mistake("a solution without tokens is accepted", ("if not learned:", "if False:")),
        mistake(
            "whether the solution is empty is asked after the end has been added",
            ("if not learned:", "if not learned and end_id is None:"),
        ),
    ],
    "calc_sft_loss": [
        mistake(
            "each token is scored by the logits of its own position, which have already read it",
            (PICKED, "logits[:, 1:].float().log_softmax(dim=-1).gather(-1, ids[:, 1:, None]).squeeze(-1)"),
        ),
        mistake(
            "the shift goes the wrong way: each position is scored on the token before it",
            (PICKED, "logits[:, 1:].float().log_softmax(dim=-1).gather(-1, ids[:, :-1, None]).squeeze(-1)"),
            ("mask = loss_mask[:, 1:]", "mask = loss_mask[:, :-1]"),
        ),
        mistake(
            "the tokens are not shifted: each position is scored on the token that it has just read",
            (PICKED, "logits[:, :-1].float().log_softmax(dim=-1).gather(-1, ids[:, :-1, None]).squeeze(-1)"),
        ),
        mistake(
            "the mask is not shifted with the tokens: the one after the last of the prompt is left out, padding comes in",
            ("mask = loss_mask[:, 1:]", "mask = loss_mask[:, :-1]"),
        ),
        mistake(
            "the mask is ignored, so that prompts are learned, too",
            ("mask = loss_mask[:, 1:]", "mask = torch.ones_like(logprobs)"),
        ),
        mistake(
            "the mask is read the other way round: the loss is on the prompt",
            ("mask = loss_mask[:, 1:]", "mask = 1 - loss_mask[:, 1:]"),
        ),
        mistake(
            "the mean is taken within each sequence first, so that tokens of short solutions weigh more",
            (AVERAGED, "-(logprobs.masked_fill(mask == 0, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()"),
        ),
        mistake("the sum is not divided", (" / mask.sum().clamp(min=1)", "")),
        mistake(
            "the sum is divided by the number of sequences",
            ("mask.sum().clamp(min=1)", "len(mask)"),
        ),
        mistake("the sum is divided by all positions, masked ones included", ("mask.sum().clamp(min=1)", "mask.numel()")),
        mistake(
            "the first token is counted in the mean, though it is never scored",
            ("mask.sum().clamp(min=1)", "loss_mask.sum().clamp(min=1)"),
        ),
        mistake(
            "the sign is missing: the log-probability is returned, which training would lower",
            (AVERAGED, AVERAGED.removeprefix("-")),
        ),
        mistake("without anything to learn 0 is divided by 0", (".clamp(min=1)", "")),
        mistake(
            "the logarithm is taken of a softmax, which is 0 for small probabilities",
            (".log_softmax(dim=-1)", ".softmax(dim=-1).log()"),
        ),
        mistake("the logarithm is missing: probabilities are averaged", (".log_softmax(dim=-1)", ".softmax(dim=-1)")),
        mistake("logits in bfloat16 are not made float32 first", (".float()", "")),
        mistake(
            "the logits are detached, so that nothing is trained", ("logits[:, :-1].float()", "logits[:, :-1].detach().float()")
        ),
    ],
    "compute_token_rewards": [
        mistake("the penalty is added, which pays for divergence", (PAID, PAID.replace(" - kl_coef", " + kl_coef"))),
        mistake("kl_coef is left out", ("kl_coef * penalty", "penalty")),
        mistake("kl_coef scales the score as well", (PAID, "kl_coef * (last_real_token(mask) * scores[:, None] - penalty)")),
        mistake(
            "the score takes the place of the penalty at the last token, where it is to come on top",
            (PAID, "torch.where(last_real_token(mask) == 1, scores[:, None], -kl_coef * penalty)"),
        ),
        mistake("the score is paid at every token", (PAID, "mask * scores[:, None] - kl_coef * penalty")),
        mistake(
            "the score is paid in the last column, be it real or not",
            (PAID, "last_real_token(torch.ones_like(mask)) * scores[:, None] - kl_coef * penalty"),
        ),
        mistake(
            "the score is paid at the first token",
            (PAID, "last_real_token(torch.ones_like(mask)).flip(1) * scores[:, None] - kl_coef * penalty"),
        ),
        mistake(
            "the penalties of all tokens are summed and paid at the last",
            (PAID, "last_real_token(mask) * (scores - kl_coef * penalty.sum(dim=1))[:, None]"),
        ),
        mistake(
            "every token pays the mean penalty of its completion",
            (PAID, "last_real_token(mask) * scores[:, None] - kl_coef * mask * penalty.mean(dim=1, keepdim=True)"),
        ),
        mistake("the padding pays a penalty, too", (PENALTY, "logprobs.detach() - ref_logprobs.detach()")),
        mistake(
            "padding is multiplied by 0, which makes nan of infinities",
            (PENALTY, "(logprobs.detach() - ref_logprobs.detach()) * mask"),
        ),
        mistake("gradient flows through the reward", (PENALTY, "hide(logprobs - ref_logprobs, mask)")),
        mistake(
            "the penalty is the k3 estimate",
            (PENALTY, "hide((ref_logprobs - logprobs).expm1() - (ref_logprobs - logprobs), mask).detach()"),
        ),
        mistake("the penalty is the k2 estimate", (PENALTY, "hide((logprobs - ref_logprobs).square() / 2, mask).detach()")),
        mistake("the penalty is the absolute difference", (PENALTY, "hide((logprobs - ref_logprobs).abs(), mask).detach()")),
        mistake(
            "negative penalties are cut off at 0", (PENALTY, "hide((logprobs - ref_logprobs).clamp(min=0), mask).detach()")
        ),
        mistake(
            "probabilities are subtracted, not their logarithms",
            (PENALTY, "hide(logprobs.exp() - ref_logprobs.exp(), mask).detach()"),
        ),
    ],
    "reft_rollout": [
        mistake(
            "the rewards are whitened over the batch, as in chapter 2",
            (TOKEN_REWARDS, TOKEN_REWARDS.replace("(rewards", "(normalize_reward(rewards)")),
        ),
        mistake("the tokens pay no KL", (TOKEN_REWARDS, TOKEN_REWARDS.replace("args.kl_reward_coef", "0.0"))),
        mistake(
            "the tokens pay with args.kl_coef, which is the loss's weight",
            (TOKEN_REWARDS, TOKEN_REWARDS.replace("args.kl_reward_coef", "args.kl_coef")),
        ),
        mistake(
            "policy and reference are swapped in the penalty",
            (
                TOKEN_REWARDS,
                TOKEN_REWARDS.replace("scores.logprobs, scores.ref_logprobs", "scores.ref_logprobs, scores.logprobs"),
            ),
        ),
        mistake(
            "the whole completion's KL is taken from the reward at the end, not paid token by token",
            (
                TOKEN_REWARDS,
                "rewards - args.kl_reward_coef * ((scores.logprobs - scores.ref_logprobs) * mask).sum(dim=1)",
            ),
        ),
        mistake(
            "the exact divergence of every token's distribution is paid, not the estimate from the token sampled",
            (
                TOKEN_REWARDS,
                "compute_token_rewards(\n"
                "            rewards, (scores.logits.div(args.temperature).softmax(-1)\n"
                "            * (scores.logits.div(args.temperature).log_softmax(-1)\n"
                "            - scores.ref_logits.div(args.temperature).log_softmax(-1))).sum(-1)[:, :-1],\n"
                "            scores.logprobs * 0,\n"
                "            args.kl_reward_coef, mask=mask\n"
                "        )",
            ),
        ),
        mistake(
            "reward and penalty are paid in the last column too, be it real or not: the mask does not reach the rewards",
            (TOKEN_REWARDS, TOKEN_REWARDS.replace(", mask=mask", "")),
        ),
        mistake(
            "the mask does not reach the advantages, so that values past the end count",
            ('"gae_lambda": args.gae_lambda, "mask": mask', '"gae_lambda": args.gae_lambda'),
        ),
        mistake(
            "half the square of the log-ratio is paid, the k2 estimate",
            (
                TOKEN_REWARDS,
                TOKEN_REWARDS.replace(
                    "scores.logprobs, scores.ref_logprobs",
                    "(scores.logprobs - scores.ref_logprobs).square() / 2, 0 * scores.logprobs",
                ),
            ),
        ),
        mistake(
            "the log-ratio is of the logits before they are divided by the temperature",
            (
                TOKEN_REWARDS,
                TOKEN_REWARDS.replace(
                    "scores.logprobs, scores.ref_logprobs",
                    "*(get_logprobs(each, sampled.ids[:, -args.gen_len - 1 :]) for each in (scores.logits, scores.ref_logits))",
                ),
            ),
            (BEGUN, f"from rlhf_lib.rollouts import get_logprobs\n\n        {BEGUN}"),
        ),
        mistake(
            "the reference is scored at temperature 1, the policy at the temperature of sampling",
            (
                TOKEN_REWARDS,
                TOKEN_REWARDS.replace(
                    "scores.ref_logprobs", "get_logprobs(scores.ref_logits, sampled.ids[:, -args.gen_len - 1 :])"
                ),
            ),
            (BEGUN, f"from rlhf_lib.rollouts import get_logprobs\n\n        {BEGUN}"),
        ),
        mistake(
            "gamma and lambda change places",
            ('"gamma": args.gamma, "gae_lambda": args.gae_lambda', '"gamma": args.gae_lambda, "gae_lambda": args.gamma'),
        ),
        mistake("gamma is ignored", ('"gamma": args.gamma, ', "")),
        mistake("lambda is fixed at 0.95, whatever gae_lambda says", ('"gae_lambda": args.gae_lambda', '"gae_lambda": 0.95')),
        mistake("the token rewards stand in the place of advantages", (KEPT, "return token_rewards")),
        mistake(
            "advantages are whitened over the batch when they are stored: the objective does that",
            (
                KEPT,
                f"{KEPT.replace('return', 'advantages =')}\n        return (advantages - advantages.mean()) / advantages.std()",
            ),
        ),
        mistake(
            "values are read one position late when advantages are made",
            ("compute_gae(scores.values", "compute_gae(scores.values.roll(-1, dims=1)"),
        ),
        mistake(
            "the reward is paid at every token, not at the last alone",
            (TOKEN_REWARDS, f"rewards[:, None] + {TOKEN_REWARDS.replace('(rewards', '(0 * rewards')}"),
        ),
        mistake("the sign of the advantages is flipped", (KEPT, KEPT.replace("return ", "return -"))),
        mistake(
            "the values are left out: what is kept is the discounted sum of later rewards",
            ("compute_gae(scores.values", "compute_gae(torch.zeros_like(scores.values)"),
        ),
        mistake(
            "every token pays the KL of the whole completion",
            (
                TOKEN_REWARDS,
                TOKEN_REWARDS.replace(
                    "scores.logprobs, scores.ref_logprobs",
                    "((scores.logprobs - scores.ref_logprobs) * mask).sum(1)[:, None].expand_as(mask), 0 * scores.logprobs",
                ),
            ),
        ),
    ],
    "pass_at_k": [
        mistake(
            "it is 1 - (1 - correct / samples)^k, as if picks were put back, which is too low on average",
            ("1.0 - math.comb(samples - correct, k) / math.comb(samples, k)", "1.0 - (1 - correct / samples) ** k"),
        ),
        mistake(
            "the chance that none is right is returned, not its complement",
            ("1.0 - math.comb(samples - correct, k)", "math.comb(samples - correct, k)"),
        ),
        mistake(
            "the chance that all k are right is returned",
            ("1.0 - math.comb(samples - correct, k)", "math.comb(correct, k)"),
        ),
        mistake("right and wrong ones are swapped", ("1.0 - math.comb(samples - correct, k)", "1.0 - math.comb(correct, k)")),
        mistake(
            "k is ignored: the share of right ones is returned",
            ("1.0 - math.comb(samples - correct, k) / math.comb(samples, k)", "correct / samples"),
        ),
        mistake(
            "whether any sample is right is returned, whatever k is",
            ("1.0 - math.comb(samples - correct, k) / math.comb(samples, k)", "float(correct > 0)"),
        ),
        mistake(
            "k times the share of right ones is returned, which counts picks with two right ones twice",
            ("1.0 - math.comb(samples - correct, k) / math.comb(samples, k)", "min(1.0, k * correct / samples)"),
        ),
        mistake(
            "the chance of exactly one right pick is returned",
            ("1.0 - math.comb(samples - correct, k)", "correct * math.comb(samples - correct, k - 1)"),
        ),
        mistake(
            "the binomials are made floats, which overflow beyond a thousand samples",
            (
                "math.comb(samples - correct, k) / math.comb(samples, k)",
                "float(math.comb(samples - correct, k)) / float(math.comb(samples, k))",
            ),
        ),
        mistake(
            "k above the number of samples is not refused",
            ("not 1 <= k <= samples", "not 1 <= k"),
            (" / math.comb(samples, k)", " / max(1, math.comb(samples, k))"),
        ),
        mistake("nothing is refused", ("if not 1 <= k <= samples or not 0 <= correct <= samples:", "if False:")),
        mistake("only k is looked at, not the number of right ones", (" or not 0 <= correct <= samples:", ":")),
        mistake("k = 0 is not refused", ("not 1 <= k <= samples", "not 0 <= k <= samples")),
        mistake(
            "more right ones than samples are not refused",
            ("not 0 <= correct <= samples", "not 0 <= correct"),
            ("math.comb(samples - correct, k)", "math.comb(max(0, samples - correct), k)"),
        ),
        mistake("a negative number of right ones is not refused", ("not 0 <= correct <= samples", "not correct <= samples")),
    ],
    "votes": [
        mistake("an answer of 0 is taken for none", ("if answer is not None:", "if answer:")),
        mistake(
            "completions without answer vote, and may win",
            ("if answer is not None:", "if True:"),
        ),
        mistake(
            "of equal sums the answer seen last wins",
            (CHOSEN, "best = max(reversed(list(totals)), key=lambda answer: totals[answer])"),
        ),
        mistake(
            "of equal sums the answer wins that comes first in the alphabet",
            (CHOSEN, "best = min(totals, key=lambda answer: (-totals[answer], str(answer)))"),
        ),
        mistake(
            "the answer itself is returned, not the index of a completion", ("return list(answers).index(best)", "return best")
        ),
        mistake(
            "the index of the last completion with the winning answer is returned",
            ("return list(answers).index(best)", "return len(answers) - 1 - list(reversed(answers)).index(best)"),
        ),
        mistake(
            "completions without answer are dropped before the index is counted",
            ("return list(answers).index(best)", "return [a for a in answers if a is not None].index(best)"),
        ),
        mistake(
            "the index counts the different answers, not the completions",
            ("return list(answers).index(best)", "return list(totals).index(best)"),
        ),
        mistake(
            "the completion of the largest weight among the winner's is returned, not the first",
            (
                "return list(answers).index(best)",
                "return max((i for i, a in enumerate(answers) if a == best), key=lambda i: weights[i])",
            ),
        ),
        mistake("weights are ignored: the majority wins", (SUMMED, "totals[answer] += 1")),
        mistake(
            "the heaviest single completion wins: weights are not summed",
            (SUMMED, "totals[answer] = max(totals[answer], weight)"),
        ),
        mistake(
            "only the last completion's weight of each answer counts: = in place of +=",
            (SUMMED, "totals[answer] = weight"),
        ),
        mistake(
            "the mean weight of an answer decides, not the sum",
            (CHOSEN, "best = max(totals, key=lambda answer: totals[answer] / list(answers).count(answer))"),
        ),
        mistake(
            "an answer whose weights are all 0 cannot win",
            ("if not totals:", "if not any(totals.values()):"),
        ),
        mistake("no answer at all gives 0, not None", ("        return None\n", "        return 0\n")),
        mistake("the answer with the least weight wins", (CHOSEN, CHOSEN.replace("max", "min"))),
    ],
    "rerank": [
        mistake("of equal scores the last wins", ("max(range(len(scores)),", "max(reversed(range(len(scores))),")),
        mistake(
            "the highest score is returned, not its index", ("max(range(len(scores)), key=lambda i: scores[i])", "max(scores)")
        ),
        mistake("the lowest score wins", ("return max(", "return min(")),
        mistake("the largest absolute value wins", ("key=lambda i: scores[i]", "key=lambda i: abs(scores[i])")),
        mistake(
            "the search begins with a best score of 0, so that negative scores never win",
            ("key=lambda i: scores[i]", "key=lambda i: max(scores[i], 0.0)"),
        ),
        mistake("an empty list raises max's own error, not an InputError", ("if not scores:", "if False:")),
        mistake(
            "an empty list gives 0",
            ('raise InputError("there is no completion to choose from; give at least one score")', "return 0"),
        ),
    ],
    "first_reaching": [
        mistake("a value equal to the level is not enough", ("if value < level:", "if value <= level:")),
        mistake("the window is ignored", ("if length == window:", "if length == 1:")),
        mistake(
            "the index of the window's last record is returned",
            ("            return start", "            return i"),
        ),
        mistake(
            "a window's first record is counted back from its last, as if no record between were missing",
            ("            return start", "            return i - window + 1"),
        ),
        mistake(
            "records above the level are counted without being in a row",
            ("            start, length = None, 0\n            continue", "            continue"),
        ),
        mistake(
            "the count begins anew below the level, but the start stays that of the first time",
            ("            start, length = None, 0\n            continue", "            length = 0\n            continue"),
        ),
        mistake(
            "a record without the metric ends the run",
            (
                "if value is None:\n            continue",
                "if value is None:\n            start, length = None, 0\n            continue",
            ),
        ),
        mistake(
            "a record without the metric counts as one at the level",
            ("if value is None:\n            continue", "if value is None:\n            value = level"),
        ),
        mistake(
            "a missing metric counts as 0",
            ("if value is None:\n            continue", "value = value or 0.0"),
        ),
        mistake("a value of 0 is passed over as if it were missing", ("if value is None:", "if not value:")),
        mistake("every record must have the metric", ("record.get(name)", "record[name]")),
        mistake(
            "a run that is cut off by the end of the history counts",
            ("    return None", "    return start"),
        ),
        mistake(
            "records that lack the metric are dropped before counting, so that the index is not that of the history",
            ("enumerate(history)", "enumerate(r for r in history if r.get(name) is not None)"),
        ),
        mistake("one record more than the window is asked for", ("if length == window:", "if length == window + 1:")),
        mistake("the metric is to stay below the level", ("if value < level:", "if value > level:")),
        mistake("never is told as the length of the history, not as None", ("    return None", "    return len(history)")),
        mistake(
            "the first record that reaches the level begins the only run that is looked at",
            (
                "            start, length = None, 0\n            continue",
                "            if start is not None:\n                return None\n            continue",
            ),
        ),
    ],
}
