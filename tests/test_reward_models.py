"""Checkers of chapters/5_reward_models.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import atexit
import itertools
import math
import shutil
import tempfile
from fractions import Fraction
from functools import cache

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rlhf_lib.course import expect
from rlhf_lib.course.agree import agree, require_gradient
from rlhf_lib.course.expect import Wrong
from rlhf_lib.models.loading import BUNDLED, quiet_transformers


def refused(student, name, *args, what):
    """A call that must raise InputError."""
    try:
        got = student.call(name, *args)
    except Wrong as error:
        raised = error.lines[0][1]
        expect.true(raised.startswith("InputError:"), f"an InputError: {what}", raised)
    else:
        expect.true(False, f"an InputError: {what}", expect.show(got))


def close_number(got, expected, what, **tolerance):
    """A plain number, no tensor, and the right one."""
    expect.true(isinstance(got, (float, int)), f"a float as {what}", f"{type(got).__name__} {expect.show(got)}")
    expect.close(got, expected, what, **tolerance)


# The losses


def preference(chosen, rejected, margin=0.0, centring_coef=0.0):
    """From the definition: the chance that the rejected one wins, as log(1 + exp(-gap)); in float64, which exp may need."""
    gap = (chosen - rejected - margin).double()
    total = torch.logaddexp(torch.zeros_like(gap), -gap).sum() / len(gap)
    total = total + centring_coef * ((chosen + rejected).double() ** 2).sum() / len(gap)
    return total.to(chosen.dtype)


def scores_of(student, count):
    return 1 + 2 * student.randn(count), 2 * student.randn(count) - 0.5


def test_calc_preference_loss__values_and_gradients(student):
    """The mean of -log sigmoid(chosen - rejected), and its gradient to the scores of both sides."""
    for count in (6, 1, 3):
        agree(student, "calc_preference_loss", preference, *scores_of(student, count), wrt=(0, 1))


def test_calc_preference_loss__margin(student):
    """The margin is taken off the difference; it is one number, or one a pair."""
    agree(student, "calc_preference_loss", preference, *scores_of(student, 5), margin=0.5 + float(student.rand(1)), wrt=(0, 1))
    agree(student, "calc_preference_loss", preference, *scores_of(student, 5), margin=2 * student.rand(5), wrt=(0, 1))


def test_calc_preference_loss__centring(student):
    """centring_coef times the mean squared sum of both scores is added; differences alone leave the zero open."""
    for coef in (0.01, 0.3):
        agree(student, "calc_preference_loss", preference, *scores_of(student, 4), centring_coef=coef, wrt=(0, 1))


def test_calc_preference_loss__margin_and_centring(student):
    """Both together: the margin does not enter the squared sum."""
    agree(
        student, "calc_preference_loss", preference, *scores_of(student, 5), margin=1 + student.rand(5), centring_coef=0.2,
        wrt=(0, 1),
    )  # fmt: skip


def test_calc_preference_loss__scores_far_apart(student):
    """Scores hundreds apart, in the right order or the wrong one, have a finite loss and a finite gradient, which is not 0."""
    gaps = torch.tensor([1.0, -1.0, 1.0, -1.0]) * (200 + 800 * student.rand(4))
    rejected = 10 * student.randn(4)
    agree(student, "calc_preference_loss", preference, rejected + gaps, rejected, wrt=(0, 1))


def squared_error(scores, targets):
    return sum((score - target) ** 2 for score, target in zip(scores, targets, strict=True)) / len(scores)


def cross_entropy(scores, correct):
    """log(1 + exp(-s)) where right, log(1 + exp(s)) where wrong."""
    signed = torch.where(correct, -scores, scores).double()
    return (torch.logaddexp(torch.zeros_like(signed), signed).sum() / len(scores)).to(scores.dtype)


def test_other_losses__regression(student):
    """The mean squared difference; gradient to the scores, none to the targets."""
    for count in (6, 1, 4):
        scores, targets = scores_of(student, count)
        agree(student, "calc_regression_loss", squared_error, scores, targets, wrt=(0,), no_gradient_to=(1,))


def mixed(student, count):
    """Right and wrong in random order, more wrong than right."""
    return torch.randperm(count, generator=student.inputs) < (count + 2) // 3


def test_other_losses__verifier(student):
    """Mean cross-entropy of sigmoid(score) against right or wrong, and its gradient."""
    for count in (7, 4, 2):
        agree(student, "calc_verifier_loss", cross_entropy, 2 * student.randn(count), mixed(student, count), wrt=(0,))


def test_other_losses__verifier_of_one_kind(student):
    """All right, all wrong, and a single solution."""
    for correct in (torch.ones(4).bool(), torch.zeros(3).bool(), torch.ones(1).bool(), torch.zeros(1).bool()):
        agree(student, "calc_verifier_loss", cross_entropy, 2 * student.randn(len(correct)), correct, wrt=(0,))


def test_other_losses__a_confident_verifier(student):
    """A score far from 0, right or wrong, has a finite loss and a finite gradient."""
    scores = torch.tensor([1.0, -1.0, 1.0, -1.0]) * (200 + 800 * student.rand(4))
    correct = torch.tensor([True, True, False, False])
    agree(student, "calc_verifier_loss", cross_entropy, scores, correct, wrt=(0,))


# Pooling


def pooled(values, attention_mask):
    picked = []
    for row, mask in zip(values, attention_mask.tolist(), strict=True):
        picked.append(row[max(place for place, real in enumerate(mask) if real)])
    return torch.stack(picked)


def spans(student, batch, seq, *, left=False, right=False):
    """A mask whose rows are one run of real tokens each, with padding on the sides named."""
    first = student.integers(1, seq - 1, batch) if left else torch.zeros(batch, dtype=torch.long)
    room = seq - first
    length = (1 + student.rand(batch) * (room - 1 - int(right))).round().long().clamp(min=1) if right else room
    place = torch.arange(seq)
    return ((place >= first[:, None]) & (place < (first + length)[:, None])).long()


def compare_pooling(student, mask):
    agree(student, "pool_last_real_token", pooled, student.randn(*mask.shape), mask, wrt=(0,))


def test_pool_last_real_token__padding_on_the_right(student):
    """Each row's value at its own last real token, and the gradient goes there alone."""
    for shape in ((5, 7), (3, 4), (1, 6)):
        compare_pooling(student, spans(student, *shape, right=True))


def test_pool_last_real_token__no_padding(student):
    """Full rows, and rows of a single token, are read at their end."""
    for shape in ((3, 5), (4, 1), (1, 1)):
        compare_pooling(student, torch.ones(*shape, dtype=torch.long))
    compare_pooling(student, torch.tensor([[1, 0, 0], [1, 1, 1], [1, 1, 0]]))


def test_pool_last_real_token__padding_on_the_left(student):
    """Padding before the text does not move its end."""
    for shape in ((4, 6), (1, 5)):
        compare_pooling(student, spans(student, *shape, left=True))
    compare_pooling(student, torch.cat([spans(student, 3, 6, left=True), spans(student, 3, 6, right=True)]))


def test_pool_last_real_token__padding_on_both_sides(student):
    """A text in the middle of its row is read at its own end."""
    compare_pooling(student, torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0]]))
    compare_pooling(student, spans(student, 5, 9, left=True, right=True))


def test_pool_last_real_token__a_row_without_tokens(student):
    """A row of nothing but padding cannot be scored: InputError, even if the other rows can."""
    mask = torch.ones(3, 4, dtype=torch.long)
    mask[int(student.integers(0, 3, 1))] = 0
    for rows in (torch.zeros(2, 4, dtype=torch.long), mask):
        refused(student, "pool_last_real_token", student.randn(*rows.shape), rows, what="a row of the mask has no 1")


# The model

VOCAB = 418  # the bundled tokenizer's
END = 2  # in these models also the padding's id, as in GPT-2
SMALL = {"vocab_size": VOCAB, "num_labels": 1, "pad_token_id": END, "eos_token_id": END, "bos_token_id": 1}
LLAMA = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
ROBERTA = {**LLAMA, "max_position_embeddings": 40, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


@cache
def tiny(kind):
    """A directory, removed at exit, with a tiny random classifier of a kind and a tokenizer."""
    directory = tempfile.mkdtemp(prefix=f"tiny-{kind}-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    with torch.random.fork_rng(), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        if kind == "llama":
            model = LlamaForSequenceClassification(LlamaConfig(**SMALL, **LLAMA))
        elif kind == "gpt2":
            model = GPT2ForSequenceClassification(GPT2Config(**SMALL, n_positions=40, n_embd=32, n_layer=2, n_head=4))
        else:
            model = RobertaForSequenceClassification(RobertaConfig(**{**SMALL, "pad_token_id": 1}, **ROBERTA))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
        model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(BUNDLED["pocket"]).save_pretrained(directory)
    return directory


@cache
def twin(kind):
    """The same classifier as transformers loads it."""
    with quiet_transformers():
        return AutoModelForSequenceClassification.from_pretrained(tiny(kind), dtype=torch.float32).eval()


def alone(kind, row, model=None):
    """The score of one text by itself, without any padding."""
    model = twin(kind) if model is None else model
    if kind == "roberta":
        return model(row[None]).logits[0, 0]
    return model.base_model(row[None]).last_hidden_state[0, -1] @ model.score.weight[0]


def batch_of(student, lengths, pad, ends=()):
    """Rows of random tokens of these lengths, padded on the right; rows in `ends` finish with the end of sequence."""
    ids, mask = torch.full((len(lengths), max(lengths)), pad), torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for i, length in enumerate(lengths):
        ids[i, :length], mask[i, :length] = student.integers(5, VOCAB, length), 1
        if i in ends:
            ids[i, length - 1] = END
    return ids, mask


def compare_scores(student, kind, ids, mask, model=None):
    model = student.call("RewardModel", tiny(kind), device="cpu") if model is None else model
    with torch.no_grad():
        expected = torch.stack([alone(kind, row[real == 1]) for row, real in zip(ids, mask, strict=True)])
    got = student.call("forward", ids, mask, on=model)
    expect.close(got, expected, "scores", rtol=1e-4, atol=1e-4)


def test_reward_model_forward__a_causal_model(student):
    """Each row's score is the head's number at the row's last real token, as if the row stood alone."""
    for lengths in ((6, 4, 9), (7,), (5, 5)):
        compare_scores(student, "llama", *batch_of(student, lengths, pad=3))


def test_reward_model_forward__padding_with_the_end_token(student):
    """Padding may have the id of the end of sequence: the end itself counts, wherever else that id stands in the text."""
    ids, mask = batch_of(student, (9, 5, 7, 9, 6), pad=END, ends=(0, 1, 2))
    ids[2, 3] = END
    compare_scores(student, "llama", ids, mask)


def test_reward_model_forward__another_trunk(student):
    """Models name their trunks differently; a GPT-2 is scored like a Llama."""
    compare_scores(student, "gpt2", *batch_of(student, (6, 5, 8), pad=END, ends=(0, 1)))


def test_reward_model_forward__an_encoder(student):
    """An encoder's classifier gives the score; padding is hidden from it."""
    for lengths in ((4, 8, 6), (5,)):
        compare_scores(student, "roberta", *batch_of(student, lengths, pad=1))


def test_reward_model_forward__gradients(student):
    """The scores train head and trunk."""
    ids, mask = batch_of(student, (6, 3), pad=END)
    weights = student.randn(2)
    for kind in ("llama", "roberta"):
        model = student.call("RewardModel", tiny(kind), device="cpu")
        _, grads = student.value_and_grad("forward", ids, mask, wrt=(model,), weights=weights, on=model)
        scores = torch.stack([alone(kind, row[real == 1]) for row, real in zip(ids, mask, strict=True)])
        names, parameters = zip(*twin(kind).named_parameters(), strict=True)
        expected = torch.autograd.grad((scores * weights).sum(), parameters, allow_unused=True)
        for name, gradient in reversed(list(zip(names, expected, strict=True))):
            if gradient is not None:
                size = float(gradient.abs().max())
                require_gradient(grads.get(f"model.{name}"), gradient, f"model.{name}", rtol=1e-3, atol=1e-4 * size + 1e-6)


def test_reward_model_forward__float32(student):
    """Scores are float32, whatever the weights are."""
    ids, mask = batch_of(student, (7, 4), pad=1)
    for kind in ("llama", "roberta"):
        model = student.call("RewardModel", tiny(kind), device="cpu")
        student.call("bfloat16", on=model)
        got = student.call("forward", ids, mask, on=model)
        expect.true(isinstance(got, torch.Tensor) and got.dtype == torch.float32, "scores in float32", describe(got))
        expect.true(list(got.shape) == [2], "one score a row", describe(got))


def describe(got):
    return f"{got.dtype} {list(got.shape)}" if isinstance(got, torch.Tensor) else expect.show(got)


# Comparisons


def comparisons(correct, group_size, most=4):
    """Two lists that begin anew, read side by side."""
    pairs = []
    for start in range(0, len(correct), group_size):
        by_kind = {True: [], False: []}
        for i in range(start, start + group_size):
            by_kind[correct[i]].append(i)
        longest = max(len(by_kind[True]), len(by_kind[False]))
        if longest < group_size:
            turns = zip(itertools.cycle(by_kind[True]), itertools.cycle(by_kind[False]), strict=False)
            pairs += itertools.islice(turns, min(longest, most))
    return pairs


def compare_pairs(student, correct, group_size, *most):
    got = student.call("make_comparisons", correct, group_size, *most)
    expect.true(isinstance(got, (list, tuple)), "a list of pairs of indices", expect.show(got))
    pairs = [tuple(pair) if isinstance(pair, (list, tuple)) else pair for pair in got]
    expect.equal(pairs, comparisons(correct, group_size, *most), f"pairs of {expect.show(correct)}")


def groups(student, group_size, *right):
    """Judgements of groups with these numbers of right completions, in random order within each."""
    return [bool(i < count) for count in right for i in torch.randperm(group_size, generator=student.inputs)]


def test_make_comparisons__equal_numbers(student):
    """The i-th right completion with the i-th wrong one of the same prompt, right ones first in the pair."""
    for size, right in ((4, (2,)), (2, (1, 1, 1)), (6, (3, 3))):
        compare_pairs(student, groups(student, size, *right), size)


def test_make_comparisons__one_kind_is_rarer(student):
    """The shorter list begins anew, until every completion of the longer one was used once."""
    for size, right in ((5, (2,)), (5, (3, 1)), (4, (1, 3, 2)), (7, (3,))):
        compare_pairs(student, groups(student, size, *right), size, 10)


def test_make_comparisons__at_most(student):
    """No more than `most` pairs of each prompt; 4 if it is left out."""
    compare_pairs(student, groups(student, 8, 4, 2, 7, 5), 8)
    for most in (1, 3):
        compare_pairs(student, groups(student, 6, 3, 1, 5), 6, most)


def test_make_comparisons__nothing_to_compare(student):
    """A prompt whose completions are all right or all wrong gives no pairs; if all are so, there are none."""
    compare_pairs(student, groups(student, 4, 4, 2, 0, 1, 4), 4)
    compare_pairs(student, groups(student, 3, 0, 3), 3)
    compare_pairs(student, [], 2)


def test_make_comparisons__groups_that_are_not_whole(student):
    """A number of completions that is no multiple of the group size is refused, and groups of one or none."""
    for count, size in ((7, 3), (3, 4), (2, 1), (4, 0)):
        correct = [bool(flag) for flag in student.integers(0, 2, count)]
        refused(student, "make_comparisons", correct, size, what=f"{count} completions are not whole groups of {size}")


# Accuracy and calibration


def share_ranked(chosen, rejected):
    points = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(chosen.tolist(), rejected.tolist(), strict=True)]
    return sum(points) / len(points)


def bins_by_hand(probabilities, outcomes, bins=10):
    kept = {}
    for p, happened in zip(probabilities.tolist(), outcomes.tolist(), strict=True):
        kept.setdefault(min(math.floor(p * bins), bins - 1), []).append((p, happened))
    return [
        (sum(p for p, _ in found) / len(found), sum(h for _, h in found) / len(found), len(found))
        for _, found in sorted(kept.items())
    ]


def calibration_error(probabilities, outcomes, bins=10):
    parts = bins_by_hand(probabilities, outcomes, bins)
    return sum(count * abs(p - share) for p, share, count in parts) / sum(count for _, _, count in parts)


def chances(student, count, bins, leave_out=()):
    """Probabilities well inside of their bins, none in those left out, and outcomes that lean another way."""
    allowed = torch.tensor([i for i in range(bins) if i not in leave_out])
    chosen = allowed[student.integers(0, len(allowed), count)]
    probabilities = (chosen + 0.15 + 0.7 * student.rand(count)) / bins
    return probabilities, student.rand(count) < 0.2 + 0.4 * probabilities


def compare_bins(student, probabilities, outcomes, *bins):
    got = student.call("calibration_bins", probabilities, outcomes, *bins)
    expected = bins_by_hand(probabilities, outcomes, *bins)
    told = isinstance(got, (list, tuple)) and all(isinstance(part, (list, tuple)) and len(part) == 3 for part in got)
    expect.true(told, "a list of (mean predicted, share that came true, count)", expect.show(got))
    for place, (ours, theirs) in enumerate(zip(expected, got, strict=False)):
        for what, a, b in zip(("mean predicted", "share that came true", "count"), ours, theirs, strict=True):
            close_number(b, a, f"{what} of the filled bin number {place + 1}")
        expect.true(
            isinstance(theirs[2], int), "a whole number as count", f"{type(theirs[2]).__name__} {expect.show(theirs[2])}"
        )
    expect.equal(len(got), len(expected), "number of bins that are not empty")


def test_calibration__pairwise_accuracy(student):
    """The share of pairs in which the chosen text has the higher score."""
    for count in (12, 5, 1):
        chosen, rejected = scores_of(student, count)
        got = student.call("pairwise_accuracy", chosen, rejected)
        close_number(got, share_ranked(chosen, rejected), "accuracy")


def test_calibration__ties(student):
    """A pair with equal scores counts half, so that a model without an opinion is right half the time."""
    chosen, rejected = (student.integers(0, 3, 20).float() for _ in range(2))
    rejected[:3] = chosen[:3]
    expect.close(student.call("pairwise_accuracy", chosen, rejected), share_ranked(chosen, rejected), "accuracy")
    constant = float(student.randn(1)) * torch.ones(6)
    expect.close(student.call("pairwise_accuracy", constant, constant.clone()), 0.5, "accuracy of a constant score")


def test_calibration__bins(student):
    """Mean prediction, share that came true and count of every bin with something in it, lowest first."""
    compare_bins(student, *chances(student, 60, 10))
    compare_bins(student, *chances(student, 25, 10, leave_out=(0, 3, 4, 8)))
    for bins in (5, 3, 1):
        compare_bins(student, *chances(student, 20, bins), bins)


def test_calibration__zero_and_one(student):
    """Certainty counts as well: 0 belongs to the first bin and 1 to the last."""
    probabilities, outcomes = chances(student, 12, 4)
    certain = torch.cat([torch.tensor([0.0, 1.0, 1.0, 0.0]), probabilities])
    outcomes = torch.cat([torch.tensor([True, False, True, False]), outcomes])
    compare_bins(student, certain, outcomes, 4)
    compare_bins(student, torch.tensor([1.0, 0.0]), torch.tensor([True, False]))


def test_calibration__edges(student):
    """A probability on the edge of two bins belongs to the upper one, whose lower edge it is."""
    probabilities, outcomes = chances(student, 8, 4)
    edges = torch.tensor([0.25, 0.5, 0.75, 0.5])
    compare_bins(student, torch.cat([edges, probabilities]), torch.cat([student.rand(4) < 0.5, outcomes]), 4)
    compare_bins(student, torch.tensor([0.5, 0.125]), torch.tensor([True, False]), 8)


def test_calibration__expected_error(student):
    """The distance between prediction and truth in each bin, weighted by how many are in it."""
    for count, bins in ((50, (10,)), (23, ()), (40, (4,)), (9, (1,))):
        given = chances(student, count, *bins) if bins else chances(student, count, 10, leave_out=(1, 2, 7))
        got = student.call("expected_calibration_error", *given, *bins)
        close_number(got, calibration_error(*given, *bins), "calibration error")


def test_calibration__opposite_errors(student):
    """Too sure here and too timid there do not cancel."""
    count = int(student.integers(2, 6, 1))
    probabilities = torch.cat([0.9 + 0.08 * student.rand(count), 0.02 + 0.05 * student.rand(count)])
    outcomes = torch.arange(2 * count) >= count
    got = student.call("expected_calibration_error", probabilities, outcomes)
    close_number(got, calibration_error(probabilities, outcomes), "calibration error")


# Best of n


def best_of_n(proxy, gold, n):
    """Every way to pick n of the samples, one after the other; of equal proxies the later one is the better."""
    ranks = list(zip(proxy.tolist(), range(len(proxy)), strict=True))
    winners = [max(pick)[1] for pick in itertools.combinations(ranks, n)]
    return gold[winners].double().mean().to(gold.dtype)


def best_of_many(proxy, gold, n):
    """The chance to win, sample by sample, without enumeration: n / N for the best, and so on among the rest."""
    left, total, order = Fraction(1), 0.0, sorted(range(len(proxy)), key=lambda i: (-float(proxy[i]), -i))
    for place, i in enumerate(order):
        among = len(order) - place
        wins = left * min(Fraction(n, among), 1)
        total, left = total + float(wins) * float(gold[i]), left - wins
    return torch.tensor(total, dtype=gold.dtype)


def rewards_of(student, count):
    """Proxy scores, and gold rewards that agree with them a little."""
    proxy = student.randn(count)
    return proxy, 1 + 0.5 * proxy + student.randn(count)


def test_best_of_n_value__all_picks(student):
    """The mean, over all ways to pick n, of the gold reward of the sample with the highest proxy; as exact as gold's kind."""
    for count, n in ((6, 2), (7, 3), (5, 4), (4, 2)):
        agree(student, "best_of_n_value", best_of_n, *rewards_of(student, count), n)
    proxy, gold = rewards_of(student, 6)
    agree(student, "best_of_n_value", best_of_n, proxy, gold.double(), 3, rtol=1e-9, atol=1e-9)


def test_best_of_n_value__one_and_all(student):
    """Best of one is the mean; best of all is the sample with the highest proxy."""
    for count in (6, 3, 1):
        proxy, gold = rewards_of(student, count)
        for n in (1, count):
            agree(student, "best_of_n_value", best_of_n, proxy, gold, n)


def test_best_of_n_value__equal_proxies(student):
    """Of samples with equal proxy the later one counts as the better."""
    for count, n in ((7, 3), (6, 2)):
        proxy = student.integers(0, 3, count).float()
        agree(student, "best_of_n_value", best_of_n, proxy, student.randn(count), n)
    for count, n in ((60, 20), (400, 90)):
        proxy, gold = student.integers(0, 2, count).float(), torch.linspace(-3, 3, count) + student.randn(count)
        agree(student, "best_of_n_value", best_of_many, proxy, gold, n, rtol=1e-4, atol=1e-4)


def test_best_of_n_value__many_samples(student):
    """Hundreds of samples, of which the picks cannot be listed."""
    for count, n in ((60, 16), (300, 40), (200, 2)):
        agree(student, "best_of_n_value", best_of_many, *rewards_of(student, count), n, rtol=1e-4, atol=1e-4)


def test_best_of_n_value__n_out_of_range(student):
    """n below 1, or above the number of samples, is refused."""
    for count, n in ((4, 5), (3, 0), (5, -1)):
        refused(student, "best_of_n_value", *rewards_of(student, count), n, what=f"n={n} with {count} samples")


def divergence(n, steps=200_000):
    """By numbers: the best of n uniform ranks has density n u^(n - 1), a single one has density 1."""
    u = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    density = n * u ** (n - 1)
    return float((density * density.log()).nan_to_num(0).mean())


def test_best_of_n_kl__values(student):
    """log n - (n - 1) / n, in nats."""
    for n in (2, 3, int(student.integers(4, 12, 1)), 16, 64):
        close_number(student.call("best_of_n_kl", n), divergence(n), f"divergence of the best of {n}", rtol=1e-5)


def test_best_of_n_kl__best_of_one(student):
    """Choosing among one changes nothing: 0."""
    close_number(student.call("best_of_n_kl", 1), 0.0, "divergence of the best of 1")
