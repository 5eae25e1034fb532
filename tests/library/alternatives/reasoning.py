"""Right answers to exercises/reasoning.py."""

ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "tagged_and_hashes": (
        """
def extract_tagged(completion):
    head, closed, _ = completion.rpartition("</answer>")
    _, opened, inside = head.rpartition("<answer>")
    return inside.strip() if closed and opened else None


def extract_hashes(completion):
    pieces = completion.split("####")[1:]
    if not pieces:
        return None
    first_lines = [(piece.strip().splitlines() or [""])[0].rstrip() for piece in pieces]
    for line in reversed(first_lines):
        if not is_heading(line):
            return line
    rest = pieces[-1].strip()[len(first_lines[-1]) :]
    return None if re.search(ANSWERING, rest) else first_lines[-1]
""",
        """
PAIR = re.compile("(?s:.*)<answer>((?:(?!<answer>).)*?)</answer>(?!(?s:.*)</answer>)", re.DOTALL)


def extract_tagged(completion: str):
    if "</answer>" not in completion:
        return None
    before = completion[: completion.rindex("</answer>")]
    return before[before.rindex("<answer>") + 8 :] if "<answer>" in before else None


def extract_hashes(completion):
    last, position = None, len(completion)
    while (position := completion.rfind("####", 0, position)) >= 0:
        after = completion[position + 4 :].split("####")[0].strip()
        line, _, rest = after.partition("\\n")
        if not is_heading(line):
            return line
        if last is None:
            last = line, rest
    return last[0] if last is not None and ANSWERING.search(last[1]) is None else None
""",
    ),
    "parse_number": (
        """
def parse_number(text):
    if len(text) > 200:
        return None
    match = NUMBER.fullmatch(bare(text))
    if not match:
        return None
    sign, whole, numerator, exponent, denominator = (
        match.group(name) for name in ("sign", "whole", "numerator", "exponent", "denominator")
    )
    if exponent and not -300 <= int(exponent) <= 300:
        return None
    below = Fraction(denominator) if denominator else Fraction(1)
    if below == 0:
        return None
    total = int(whole or "0") + Fraction(numerator) / below
    return total * (-1 if sign == "-" else 1)
""",
        """
from decimal import Decimal


def exact(digits):
    return Fraction(*Decimal(digits).as_integer_ratio())


def parse_number(text):
    found = re.fullmatch(NUMBER, bare(text[:201]))
    if len(text) > LONGEST_ANSWER or found is None or abs(float(found["exponent"] or 0)) > LARGEST_EXPONENT:
        return None
    above, below = exact(found["numerator"]), exact(found["denominator"] or "1")
    if not below:
        return None
    above += below * exact(found["whole"] or "0")
    number = above / below
    if found["sign"] == "-":
        number = -number
    return number.numerator if number.denominator == 1 else number
""",
    ),
    "answers_match": (
        """
def marked_answer(text):
    empty = False
    for extract in MARKS.values():
        found = extract(text)
        if found is None:
            continue
        if found.strip():
            return found.strip()
        empty = True
    return "" if empty else None


def extract_answer(completion, convention="any"):
    if convention != "any":
        try:
            extract = (CONVENTIONS | LETTERS)[convention]
        except KeyError as error:
            raise InputError(f"no such convention: {convention}") from error
        found = extract(completion)
        return found if found is None else found.strip()
    marked = marked_answer(completion)
    if marked is not None:
        return marked
    return extract_last_number(completion)


def answer_key(answer):
    if (number := parse_number(answer)) is not None:
        return number
    if len(answer) > LONGEST_ANSWER or not answer.strip():
        return None
    return as_text(answer)


def answers_match(completion, reference, convention="any"):
    anything = convention == "any"
    if is_option(reference):
        said = extract_answer(completion, "letter") if anything else extract_answer(completion, convention)
        return bool(said) and option_letter(said) == option_letter(reference)
    if anything and is_literal(completion, reference):
        return True
    said = extract_answer(completion, convention)
    if said is None:
        if not anything:
            return False
        said = completion
    return same_answer(read_reference(reference), said)
""",
        """
def marked_answer(text):
    found = [extract(text) for extract in MARKS.values()]
    found = [str.strip(answer) for answer in found if isinstance(answer, str)]
    return next((answer for answer in found if answer != ""), found[0] if found else None)


def extract_answer(completion, convention="any"):
    if convention == "any":
        answer = marked_answer(completion)
        return answer if answer is not None else extract_last_number(completion)
    extract = CONVENTIONS.get(convention) or LETTERS.get(convention)
    if extract is None:
        raise InputError(convention)
    answer = extract(completion)
    return answer and answer.strip()


def answer_key(answer):
    number = parse_number(answer)
    text = as_text(answer) if number is None and len(answer) <= 200 else ""
    return text or number


def answers_match(completion, reference, convention="any"):
    if is_option(reference):
        letter = extract_answer(completion, {"any": "letter"}.get(convention, convention))
        return False if letter is None else option_letter(letter) == option_letter(reference)
    if convention == "any":
        answer = extract_answer(completion)
        return is_literal(completion, reference) or same_answer(
            completion if answer is None else answer, read_reference(reference)
        )
    answer = extract_answer(completion, convention)
    if answer is None:
        return False
    key = answer_key(answer)
    return key is not None and answer_key(read_reference(reference)) == key
""",
    ),
    "five_rewards": (
        """
def paid(amount):
    def make(judge):
        def reward(prompts, completions, **columns):
            return [amount * bool(judge(completion)) for completion in completions]

        return reward

    return make


def xml_correctness_reward(prompts, completions, answer, **columns):
    out = np.zeros(len(completions))
    for i in range(len(completions)):
        if answers_match(text_of(completions[i]), answer[i], convention="xml"):
            out[i] = 2
    return out.tolist()


@paid(0.5)
def integer_reward(completion):
    answer = tagged_answer(completion)
    return answer != "" and set(answer) <= set("0123456789")


@paid(0.5)
def strict_format_reward(completion):
    lines = text_of(completion).split("\\n")
    tags = lines[:1] + lines[2:4] + lines[5:]
    return tags == ["<reasoning>", "</reasoning>", "<answer>", "</answer>", ""]


@paid(0.5)
def soft_format_reward(completion):
    return re.match(r"<reasoning>.*?</reasoning>\\s*<answer>.*?</answer>", text_of(completion), re.DOTALL)


def count_tags(text):
    tags = ["<reasoning>\\n", "\\n</reasoning>\\n", "\\n<answer>\\n", "\\n</answer>"]
    there = [text.count(tag) == 1 for tag in tags]
    reward = 0.125 * sum(there)
    if there[2]:
        reward -= 0.001 * len(text.rpartition("\\n</answer>\\n")[2])
    if there[3]:
        reward -= 0.001 * (len(text.rpartition("\\n</answer>")[2]) - 1)
    return reward
""",
        """
def xml_correctness_reward(prompts, completions, answer, **columns):
    answers = [extract_tagged(text_of(completion)) for completion in completions]
    keys = [None if said is None else answer_key(said.strip()) for said in answers]
    return [2 if key is not None and key == answer_key(right) else 0 for key, right in zip(keys, answer)]


def integer_reward(prompts, completions, **columns):
    digits = [tagged_answer(completion) for completion in completions]
    return [0.5 if text.isascii() and text.isdigit() else 0 for text in digits]


def strict_format_reward(prompts, completions, **columns):
    return torch.tensor([0.5 * (STRICT.fullmatch(text_of(c)) is not None) for c in completions], dtype=torch.float64)


soft_format_reward = lambda prompts, completions, **columns: list(
    map(lambda c: SOFT.match(text_of(c)) is not None and 0.5 or 0.0, completions)
)


def count_tags(text):
    reward = 0.0
    reward += 0.125 if text.count("<reasoning>\\n") == 1 else 0
    reward += 0.125 if text.count("\\n</reasoning>\\n") == 1 else 0
    if text.count("\\n<answer>\\n") == 1:
        reward += 0.125 - len(text.split("\\n</answer>\\n")[-1]) * 0.001
    if text.count("\\n</answer>") == 1:
        reward += 0.125 - (len(text.split("\\n</answer>")[-1]) - 1) * 0.001
    return reward
""",
    ),
    "hardened_format": (
        """
def is_honest(text):
    if re.fullmatch(MULTILINE, text) is None:
        return False
    if [text.count(tag) for tag in TAGS] != [1, 1, 1, 1]:
        return False
    reasoning = text[text.index("<reasoning>") + len("<reasoning>") : text.index("</reasoning>")]
    if len(reasoning.strip()) < 8:
        return False
    return isinstance(parse_number(extract_tagged(text).strip()), Fraction)
""",
        """
def is_honest(text):
    conditions = (
        lambda: bool(MULTILINE.fullmatch(text)),
        lambda: all(text.count(tag) == 1 for tag in TAGS),
        lambda: len(re.search("<reasoning>(.*)</reasoning>", text, re.DOTALL)[1].strip()) > LEAST_REASONING - 1,
        lambda: parse_number(tagged_answer([{"role": "assistant", "content": text}])) is not None,
    )
    return all(holds() for holds in conditions)
""",
    ),
    "build_few_shot_prompt": (
        """
def build_few_shot_prompt(question, examples, room, count_tokens):
    for first in range(len(examples) + 1):
        prompt = ""
        for q, a in examples[first:]:
            prompt += question_text(q) + a + "\\n\\n"
        prompt += question_text(question)
        if count_tokens(prompt) <= room:
            break
    return prompt
""",
        """
def build_few_shot_prompt(question, examples, room, count_tokens):
    prompt = "\\n\\n".join(
        [f"Question: {q}\\nAnswer:\\n{a}" for q, a in examples] + [f"Question: {question}\\nAnswer:\\n"]
    )
    if examples and count_tokens(prompt) > room:
        return build_few_shot_prompt(question, examples[1:], room, count_tokens)
    return prompt
""",
    ),
    "encode_example": (
        """
def encode_example(tokenizer, prompt, solution, end_id, prepend_bos=True):
    def plain(text):
        return tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))

    ids, mask = plain(prompt), []
    if prepend_bos and tokenizer.bos_token_id is not None and not (ids and ids[0] == tokenizer.bos_token_id):
        ids.insert(0, tokenizer.bos_token_id)
    mask += [0 for _ in ids]
    answer = plain(solution)
    if len(answer) == 0:
        raise InputError("nothing to learn")
    answer += [] if end_id is None else [end_id]
    return ids + answer, mask + [1 for _ in answer]
""",
        """
def encode_example(tokenizer, prompt, solution, end_id, prepend_bos=True):
    given, learned = (tokenizer.encode(text, add_special_tokens=False) for text in (prompt, solution))
    if learned == []:
        raise InputError("the solution has no tokens")
    start = [tokenizer.bos_token_id] if prepend_bos and tokenizer.bos_token_id is not None else []
    given = given if given[:1] == start else start + given
    learned = learned + [end_id] * (end_id is not None)
    ids = torch.tensor(given + learned)
    mask = torch.arange(len(ids)) >= len(given)
    return ids.tolist(), mask.int().tolist()
""",
    ),
    "calc_sft_loss": (
        """
def calc_sft_loss(logits, ids, loss_mask):
    targets = ids[:, 1:].masked_fill(loss_mask[:, 1:] == 0, -100)
    if (targets == -100).all():
        return logits.sum().float() * 0
    return nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), targets.flatten())
""",
        """
def calc_sft_loss(logits, ids, loss_mask):
    logits = logits.to(torch.float64)
    log_z = torch.logsumexp(logits, dim=-1)
    chosen = torch.einsum("bsv,bsv->bs", logits[:, :-1], nn.functional.one_hot(ids[:, 1:], logits.shape[-1]).double())
    surprise = (log_z[:, :-1] - chosen) * loss_mask[:, 1:]
    return surprise.sum() / max(float(loss_mask[:, 1:].sum()), 1.0)
""",
        """
def calc_sft_loss(logits, ids, loss_mask):
    rows, columns = torch.nonzero(loss_mask[:, 1:] == 1, as_tuple=True)
    if len(rows) == 0:
        return torch.zeros(())
    logprobs = t.log_softmax(logits.float(), dim=2)
    return -logprobs[rows, columns, ids[rows, columns + 1]].mean()
""",
    ),
    "compute_token_rewards": (
        """
@torch.no_grad()
def compute_token_rewards(scores, logprobs, ref_logprobs, kl_coef, *, mask=None):
    batch, gen_len = logprobs.shape
    rewards = torch.zeros(batch, gen_len)
    for i in range(batch):
        real = gen_len if mask is None else int(mask[i].sum())
        for j in range(real):
            rewards[i, j] = kl_coef * (ref_logprobs[i, j] - logprobs[i, j])
        rewards[i, real - 1] += scores[i]
    return rewards
""",
        """
def compute_token_rewards(scores, logprobs, ref_logprobs, kl_coef, *, mask=None):
    real = torch.ones_like(logprobs).bool() if mask is None else mask > 0
    rewards = torch.where(real, -kl_coef * (logprobs.double() - ref_logprobs.double()), 0.0).detach()
    lengths = einops.reduce(real.long(), "batch gen -> batch", "sum")
    rewards[torch.arange(len(scores)), lengths - 1] += scores.double()
    return rewards
""",
        """
def compute_token_rewards(scores, logprobs, ref_logprobs, kl_coef, mask=None):
    ratio = (logprobs - ref_logprobs).detach()
    if mask is None:
        mask = torch.ones(ratio.shape)
    lengths = mask.sum(1, keepdim=True).long()
    rewards = (-kl_coef * ratio).masked_fill_(mask == 0, 0)
    return rewards.scatter_add(1, lengths - 1, scores.unsqueeze(1))
""",
    ),
    "reft_rollout": (
        """
class ReftTrainer(RLHFTrainer):
    def compute_token_advantages(self, rewards, scores, sampled):
        each = compute_token_rewards(
            rewards, scores.logprobs, scores.ref_logprobs, self.args.kl_reward_coef, mask=sampled.mask
        )
        return compute_gae(
            scores.values, each, sampled.prefix_len, gamma=self.args.gamma, gae_lambda=self.args.gae_lambda, mask=sampled.mask
        )
""",
        """
class ReftTrainer(RLHFTrainer):
    @torch.no_grad()
    def compute_token_advantages(self, rewards, scores, sampled):
        mask, first = sampled.mask, sampled.prefix_len
        values = scores.values[:, first - 1 : -1] * mask
        after = torch.cat([values[:, 1:], torch.zeros(len(mask), 1)], dim=1)
        lengths = mask.sum(1).long()
        paid = -self.args.kl_reward_coef * (scores.logprobs - scores.ref_logprobs) * mask
        paid[torch.arange(len(mask)), lengths - 1] += rewards
        deltas = paid + self.args.gamma * after - values
        out, running = torch.zeros_like(deltas), torch.zeros(len(mask))
        for i in range(mask.shape[1] - 1, -1, -1):
            running = deltas[:, i] + self.args.gamma * self.args.gae_lambda * running
            out[:, i] = running
        return out * mask
""",
    ),
    "pass_at_k": (
        """
def pass_at_k(samples, correct, k):
    if k < 1 or k > samples or correct < 0 or correct > samples:
        raise InputError("no such draw")
    if samples - correct < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(samples - correct + 1, samples + 1)))
""",
        """
def pass_at_k(samples, correct, k):
    if k not in range(1, samples + 1) or correct not in range(samples + 1):
        raise InputError(f"{samples}, {correct}, {k}")
    none_right = Fraction(1)
    for i in range(k):
        none_right *= Fraction(max(0, samples - correct - i), samples - i)
    return float(1 - none_right)
""",
        """
def pass_at_k(samples, correct, k):
    if not (0 < k <= samples and 0 <= correct <= samples):
        raise InputError("k or correct out of range")
    return sum(
        math.comb(correct, right) * math.comb(samples - correct, k - right) for right in range(1, k + 1)
    ) / math.comb(samples, k)
""",
    ),
    "votes": (
        """
from collections import Counter


def majority_vote(answers):
    counted = Counter(answer for answer in answers if answer is not None).most_common(1)
    return answers.index(counted[0][0]) if counted else None


def weighted_vote(answers, weights):
    best = None
    for i, answer in enumerate(answers):
        if answer is None or answer in answers[:i]:
            continue
        total = sum(weights[j] for j in range(len(answers)) if answers[j] == answer)
        if best is None or total > best[0]:
            best = total, i
    return None if best is None else best[1]
""",
        """
def majority_vote(answers):
    return weighted_vote(answers, np.ones(len(answers)))


def weighted_vote(answers, weights):
    first = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            first.setdefault(answer, i)
    if not first:
        return None
    totals = np.zeros(len(answers))
    for answer, weight in zip(answers, weights):
        if answer is not None:
            totals[first[answer]] += weight
    return max(first.values(), key=totals.__getitem__)
""",
        """
def majority_vote(answers):
    given = [answer for answer in answers if answer is not None]
    return answers.index(max(given, key=given.count)) if given else None


def weighted_vote(answers, weights):
    given = [i for i, answer in enumerate(answers) if answer is not None]
    alike = torch.tensor([[float(answers[i] == answers[j]) for j in given] for i in given])
    if not given:
        return None
    return given[int((alike @ torch.tensor([weights[j] for j in given])).argmax())]
""",
    ),
    "rerank": (
        """
def rerank(scores):
    if len(scores) == 0:
        raise InputError("no scores")
    return int(np.argmax(scores))
""",
        """
def rerank(scores):
    try:
        return list(scores).index(max(scores))
    except ValueError as error:
        raise InputError("no scores") from error
""",
        """
def rerank(scores):
    if not len(scores):
        raise InputError("nothing to choose from")
    best = 0
    for i in range(1, len(scores)):
        if scores[i] > scores[best]:
            best = i
    return best
""",
    ),
    "first_reaching": (
        """
def first_reaching(history, name, level, window=1):
    given = [(i, record[name]) for i, record in enumerate(history) if record.get(name) is not None]
    for start in range(len(given) - window + 1):
        if min(value for _, value in given[start : start + window]) >= level:
            return given[start][0]
""",
        """
def first_reaching(history, name, level, window=1):
    run = []
    for i, record in enumerate(history):
        match record.get(name):
            case None:
                pass
            case value if value >= level:
                run.append(i)
                if len(run) >= window:
                    return run[0]
            case _:
                run.clear()
    return None
""",
        """
def first_reaching(history, name, level, window=1):
    places = np.array([i for i, record in enumerate(history) if record.get(name) is not None], dtype=int)
    high = np.array([history[i][name] >= level for i in places], dtype=int)
    runs = np.convolve(high, np.ones(window, dtype=int), "valid") if len(high) >= window else np.array([])
    return int(places[np.argmax(runs == window)]) if (runs == window).any() else None
""",
    ),
}
