"""Checkers of chapters/1_rollouts.md. They see answers only through `student`; each is named test_<exercise>__<what>."""

import atexit
import functools
import shutil
import tempfile

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from rlhf_lib.course import expect
from rlhf_lib.course.agree import agree, require_defaults
from rlhf_lib.course.scripted import ScriptedDecoder, TableDecoder, Witness, tiny_gpt2
from rlhf_lib.course.student import Crash, Handle
from rlhf_lib.models import TransformerWithLora
from rlhf_lib.models.loading import quiet_transformers

INFINITY = float("inf")


def fields(student, kind, result, *names):
    """Attributes of a result; messages go on naming the call that gave it."""
    called = student.called
    expect.true(isinstance(result, Handle), f"a {kind}", expect.show(result))
    found = [student.call(name, on=result) for name in names]
    student.called = called
    return found


# take


def taken(logprobs, tokens):
    rows = logprobs.reshape(-1, logprobs.shape[-1])
    return torch.stack([row[token] for row, token in zip(rows, tokens.reshape(-1), strict=True)]).reshape(tokens.shape)


def test_take__values_and_gradients(student):
    """For each token the entry of its id, and the gradient goes to that entry alone."""
    for shape, vocab in (((3, 4), 7), ((5,), 6), ((2, 3, 2), 5)):
        agree(student, "take", taken, student.randn(*shape, vocab), student.integers(0, vocab, *shape), wrt=(0,))


def test_take__axes_of_length_1(student):
    """A batch of 1 and a single position keep their axes."""
    for shape in ((1, 4), (3, 1), (1, 1), (1,)):
        agree(student, "take", taken, student.randn(*shape, 6), student.integers(0, 6, *shape), wrt=(0,))


# get_logprobs


def scored(logits, tokens, prefix_len=None, *, temperature=1.0):
    first = 1 if prefix_len is None else prefix_len
    columns = []
    for position in range(first, tokens.shape[1]):
        predicting = logits[:, position - 1] / temperature
        chosen = predicting[range(len(tokens)), tokens[:, position]]
        columns.append(chosen - predicting.logsumexp(dim=-1))
    return torch.stack(columns, dim=1)


def logits_and_tokens(student, batch, seq, vocab, scale=2.0):
    return scale * student.randn(batch, seq, vocab), student.integers(0, vocab, batch, seq)


def test_get_logprobs__every_token(student):
    """Without prefix_len every token but the first is scored, by the logits one position before it."""
    agree(student, "get_logprobs", scored, *logits_and_tokens(student, 3, 6, 8), wrt=(0,))


def test_get_logprobs__after_a_prefix(student):
    """With prefix_len only the tokens after the prefix are scored, whatever its length."""
    for batch, seq, vocab, prefix_len in ((2, 8, 6, 5), (3, 7, 9, 2), (4, 6, 5, 4), (2, 5, 6, 1)):
        agree(student, "get_logprobs", scored, *logits_and_tokens(student, batch, seq, vocab), prefix_len, wrt=(0,))


def test_get_logprobs__a_batch_of_1(student):
    """One sequence, and one generated token."""
    agree(student, "get_logprobs", scored, *logits_and_tokens(student, 1, 5, 7), 2, wrt=(0,))
    agree(student, "get_logprobs", scored, *logits_and_tokens(student, 1, 5, 7), 4, wrt=(0,))


def test_get_logprobs__large_logits(student):
    """Logits of several hundred give finite log-probabilities and gradients."""
    logits = torch.where(student.rand(3, 6, 8) < 0.5, -200.0, 200.0) + student.randn(3, 6, 8)
    agree(student, "get_logprobs", scored, logits, student.integers(0, 8, 3, 6), 2, wrt=(0,), atol=1e-4)


def test_logprobs_at_a_temperature__values_and_gradients(student):
    """Log-probabilities under softmax(logits / temperature), and their gradient."""
    for temperature in (0.5, 1.7, 1.0):
        agree(
            student, "get_logprobs", scored, *logits_and_tokens(student, 3, 6, 8), wrt=(0,), temperature=temperature
        )  # fmt: skip


def test_logprobs_at_a_temperature__after_a_prefix(student):
    """The same for the tokens after a prefix."""
    agree(student, "get_logprobs", scored, *logits_and_tokens(student, 2, 7, 6), 3, wrt=(0,), temperature=0.7)


def test_logprobs_at_a_temperature__they_are_normalised(student):
    """At every temperature the probabilities of all tokens at a position add up to 1."""
    logits = 3 * student.randn(1, 1, 6)
    rows = logits.expand(6, 2, 6)
    every_token = torch.stack([torch.zeros(6, dtype=torch.long), torch.arange(6)], dim=1)
    for temperature in (0.3, 2.5):
        got = student.call("get_logprobs", rows, every_token, temperature=temperature)
        expect.close(got.exp().sum(), torch.tensor(1.0), "sum of the probabilities", rtol=1e-4)


# truncation


def largest_kept(logits, top_k):
    place = logits.argsort(dim=-1, descending=True).argsort(dim=-1)
    return torch.where(place < top_k, logits, -INFINITY)


def spaced_logits(student, batch, vocab, scale=1.0):
    """Logits without ties: whole numbers in a random order of each row's own, each row on a level of its own."""
    order = student.rand(batch, vocab).argsort(dim=1)
    levels = 20 * student.randn(batch, 1).sort(dim=0).values + 3 * torch.arange(batch)[:, None]
    return scale * (order + 0.5 * student.rand(batch, vocab)) + levels


def test_keep_top_k__values(student):
    """The k largest logits of each row are kept as they are, all others become -inf."""
    for batch, vocab, top_k in ((4, 7, 3), (3, 9, 5), (5, 6, 2)):
        agree(student, "keep_top_k", largest_kept, spaced_logits(student, batch, vocab), top_k)


def test_keep_top_k__one_row_and_one_token(student):
    """A batch of 1; k = 1 leaves the likeliest token."""
    agree(student, "keep_top_k", largest_kept, spaced_logits(student, 1, 6), 3)
    agree(student, "keep_top_k", largest_kept, spaced_logits(student, 3, 6), 1)


def test_keep_top_k__large_logits(student):
    """Logits of several hundred: the removed ones are still below all others."""
    agree(student, "keep_top_k", largest_kept, spaced_logits(student, 3, 6, scale=100.0) - 400, 2)


def largest_and_tied(logits, top_k):
    return torch.where(logits >= logits.sort(dim=-1, descending=True).values[:, top_k - 1 : top_k], logits, -INFINITY)


def test_keep_top_k__ties(student):
    """Tokens tied with the last one that stays, stay too; ties above it count one by one."""
    levels = torch.tensor([[5.0, 5.0, 3.0, 3.0, 3.0, 1.0, 0.0], [6.0, 4.0, 2.0, 2.0, 2.0, 2.0, 1.0]])
    logits = levels.gather(1, student.rand(2, 7).argsort(dim=1)) + student.integers(-9, 9, 2, 1)
    for top_k in (2, 3, 4):
        agree(student, "keep_top_k", largest_and_tied, logits, top_k)


def test_keep_top_k__everything(student):
    """A k of vocab or more keeps everything."""
    logits = spaced_logits(student, 3, 5)
    for top_k in (5, 50):
        expect.equal(student.call("keep_top_k", logits, top_k), logits)


def nucleus(logits, top_p):
    out = torch.full_like(logits, -INFINITY)
    for row, probs in enumerate(logits.double().softmax(dim=-1)):
        held = 0.0
        for token in probs.argsort(descending=True).tolist():
            if held >= top_p:
                break
            out[row, token] = logits[row, token]
            held += float(probs[token])
    return out


SHARES = ((0.52, 0.24, 0.14, 0.07, 0.03), (0.30, 0.25, 0.21, 0.17, 0.07), (0.87, 0.06, 0.04, 0.02, 0.01))


def logits_of_shares(student, shares=SHARES):
    """Logits of nearly these probabilities, in a random order and moved by a random amount in each row."""
    probs = torch.tensor(shares)
    order = student.rand(*probs.shape).argsort(dim=1)
    jitter = 1e-3 * student.randn(*probs.shape).clamp(-2, 2)
    return (probs.log() + jitter).gather(1, order) + 3 * student.randn(len(probs), 1)


def test_keep_top_p__values(student):
    """The smallest set of likeliest tokens that holds probability p keeps its logits; all others become -inf."""
    for top_p in (0.66, 0.8, 0.95):
        agree(student, "keep_top_p", nucleus, logits_of_shares(student), top_p)


def test_keep_top_p__the_likeliest_always_stays(student):
    """A p below the likeliest token's probability leaves that token alone."""
    agree(student, "keep_top_p", nucleus, logits_of_shares(student), 0.1)


def test_keep_top_p__one_row(student):
    """A batch of 1."""
    agree(student, "keep_top_p", nucleus, logits_of_shares(student, SHARES[:1]), 0.82)


def test_keep_top_p__a_sum_of_exactly_p(student):
    """Once the sum is exactly p no more tokens are added; of equal ones any may stay."""
    for equal, top_p, count in ((4, 0.5, 2), (4, 0.75, 3), (2, 0.5, 1), (8, 0.625, 5)):
        logits = torch.where(torch.arange(9) < equal, 0.0, -INFINITY)[student.rand(9).argsort()].expand(2, 9)
        level = student.integers(-5, 5, 2, 1)
        kept = student.call("keep_top_p", logits + level, top_p)
        expect.equal((kept == level).sum(dim=1), torch.tensor([count, count]), "number of tokens that stay")
        expect.true(bool(((kept == level) | (kept == -INFINITY)).all()), "their logits as they were", "others")


def test_keep_top_p__everything(student):
    """A p of 1 keeps everything, also where one token holds nearly all the probability."""
    logits = 100 * student.randn(3, 6)
    expect.equal(student.call("keep_top_p", logits, 1.0), logits)


# sample_tokens


def truncated(logits, top_k=None, top_p=None):
    logits = logits if top_k is None else largest_kept(logits, top_k)
    return logits if top_p is None else nucleus(logits, top_p)


def check_samples(student, logits, temperature=1.0, **options):
    """Both log-probabilities are those of the tokens that were drawn, and no token lies outside what is left."""
    got = student.call("sample_tokens", logits, temperature, **options)
    expect.true(isinstance(got, (tuple, list)) and len(got) == 3, "three results", expect.show(got))
    tokens, logprobs, sampler_logprobs = got
    truncation = {name: options[name] for name in ("top_k", "top_p") if name in options}
    scaled = logits.float() / (temperature or 1.0)
    expect.equal(list(tokens.shape), [len(logits)], "shape of the tokens")
    after = truncated(scaled, **truncation).log_softmax(dim=-1)[range(len(logits)), tokens]
    outside = int(after.isinf().sum())
    expect.true(outside == 0, "only tokens that top-k and top-p leave", f"{outside} of {len(tokens)} others")
    expect.close(logprobs, scaled.log_softmax(dim=-1)[range(len(logits)), tokens], "log-probabilities under the policy")
    expect.close(sampler_logprobs, after, "log-probabilities after truncation", atol=1e-5)
    return tokens


def check_frequencies(tokens, probs):
    """Counts within six standard deviations, and some more for rare tokens, of what independent draws give."""
    count = len(tokens)
    found = torch.bincount(tokens, minlength=len(probs)) / count
    for token, (share, expected) in enumerate(zip(found.tolist(), probs.tolist(), strict=True)):
        allowed = 6 * (expected * (1 - expected) / count) ** 0.5 + 12 / count
        expect.true(
            abs(share - expected) <= allowed,
            f"token {token} in {expected:.1%} of {count} draws, within {allowed:.1%}",
            f"in {share:.1%}",
        )


def test_sample_tokens__truncation(student):
    """truncate_logits cuts by top-k first and then by top-p, each only where it is given."""
    logits = logits_of_shares(student)
    for top_k, top_p in ((3, None), (None, 0.8), (3, 0.8), (None, None)):
        agree(student, "truncate_logits", truncated, logits, top_k, top_p)


def test_sample_tokens__log_probabilities(student):
    """The second result is the tokens' log-probabilities under softmax(logits / temperature)."""
    for temperature in (1.0, 0.6, 1.8):
        check_samples(student, 2 * student.randn(40, 7), temperature)


def test_sample_tokens__log_probabilities_after_top_k(student):
    """Only the k likeliest are drawn; the third result is renormalised over them, the second is not."""
    check_samples(student, 2 * student.randn(40, 7), 0.8, top_k=3)


def test_sample_tokens__log_probabilities_after_top_p(student):
    """Top-p cuts the distribution at the temperature that is sampled at."""
    shares = [SHARES[i % 3] for i in range(60)]
    check_samples(student, 1.6 * logits_of_shares(student, shares), 1.6, top_p=0.8)


def five_logits(student):
    """Logits of five tokens in a random order."""
    logits = torch.tensor([2.5, 1.5, 0.5, -0.5, -2.0]) + 0.2 * student.rand(5)
    return logits[student.rand(5).argsort()]


def test_sample_tokens__frequencies(student):
    """Tokens are drawn with the probabilities softmax(logits / temperature), each row for itself."""
    logits = five_logits(student)
    for temperature in (0.7, 1.5):
        tokens = check_samples(student, logits.expand(20_000, 5), temperature)
        check_frequencies(tokens, (logits / temperature).softmax(dim=-1))


def test_sample_tokens__frequencies_after_top_k(student):
    """After top-k the tokens that stay keep their proportions."""
    logits = five_logits(student)
    tokens = check_samples(student, logits.expand(20_000, 5), 0.9, top_k=3)
    check_frequencies(tokens, truncated(logits[None] / 0.9, top_k=3)[0].softmax(dim=-1))


def test_sample_tokens__greedy(student):
    """Temperature 0 takes the likeliest token and reports its log-probabilities at temperature 1."""
    logits = spaced_logits(student, 12, 5, scale=0.5)
    for options in ({}, {"top_k": 2}):
        tokens = check_samples(student, logits, 0.0, **options)
        expect.equal(tokens, logits.argmax(dim=-1), "the likeliest tokens")


def test_sample_tokens__one_row_and_large_logits(student):
    """A batch of 1, and logits of several hundred."""
    check_samples(student, 2 * student.randn(1, 6))
    check_samples(student, 200 * student.randn(5, 6), 0.5, top_k=4)


def test_sample_tokens__half_precision(student):
    """Logits in bfloat16 are computed with in float32: log-probabilities keep all their digits."""
    check_samples(student, (2 * student.randn(40, 7)).bfloat16(), 0.7)
    check_samples(student, (2 * student.randn(40, 7)).bfloat16(), 0.0)


def test_sample_tokens__defaults(student):
    """Without further arguments tokens are drawn at temperature 1 and nothing is cut."""
    require_defaults(student, "sample_tokens", temperature=1.0, top_k=None, top_p=None, generator=None)
    require_defaults(student, "truncate_logits", top_k=None, top_p=None)
    logits = five_logits(student)
    tokens, logprobs, sampler_logprobs = student.call("sample_tokens", logits.expand(20_000, 5))
    check_frequencies(tokens, logits.softmax(dim=-1))
    expect.close(logprobs, logits.log_softmax(dim=-1)[tokens], "log-probabilities under the policy")
    expect.close(sampler_logprobs, logits.log_softmax(dim=-1)[tokens], "log-probabilities under what was sampled from")


def test_sample_tokens__generator(student):
    """The generator that is given decides: the same state draws the same tokens."""
    logits, draws = student.randn(1, 6).expand(200, 6), []
    for _ in range(2):
        generator = student.call("torch.Generator")
        student.call("manual_seed", 11, on=generator)
        draws.append(student.call("sample_tokens", logits, generator=generator)[0])
    same = int((draws[0] == draws[1]).sum())
    expect.true(same == 200, "200 draws of 200 the same with the same generator", f"{same} the same")


# cached_decoding


@functools.cache
def library_model(path):
    """The library's own copy of a model, on the checker's side."""
    return TransformerWithLora.from_pretrained(path, device="cpu")


@torch.no_grad()
def logits_alone(path, row, mask):
    """Next-token logits of one sequence without its padding, in one pass without a cache."""
    return library_model(path)(row[mask.bool()][None])[0, -1]


def padded_prompts(student, real=(7, 4, 5), longest=7):
    """Random ids, padded on the left with zeros, and their mask."""
    mask = (torch.arange(longest) >= longest - torch.tensor(real)[:, None]).long()
    return student.integers(3, 400, len(real), longest) * mask, mask


def inner_model(student, path):
    """The Hugging Face model on the student's side."""
    policy = student.call("TransformerWithLora.from_pretrained", path, device="cpu")
    return student.call("original_model", on=student.call("base_model", on=policy))


def check_decoder(student, path, steps):
    """After every call the logits are those of each sequence alone, recomputed from the start."""
    ids, mask = padded_prompts(student)
    decoder = student.call("Decoder", inner_model(student, path), mask)
    new = ids
    for step in range(steps + 1):
        got = student.call("__call__", new, on=decoder)
        expected = torch.stack([logits_alone(path, row, real) for row, real in zip(ids, mask, strict=True)])
        which = "logits after the prompts" if step == 0 else f"logits after {step} more tokens"
        expect.close(got, expected, which, rtol=1e-4, atol=1e-4)
        new = student.integers(3, 400, len(ids), 1)
        ids, mask = torch.cat([ids, new], dim=1), torch.cat([mask, torch.ones_like(new)], dim=1)


def test_cached_decoding__the_prompts(student):
    """The first call gives the logits after prompts of different lengths, as if each stood alone."""
    check_decoder(student, "pocket", 0)


def test_cached_decoding__token_by_token(student):
    """Each later call gets one token a sequence and gives what a pass over the whole sequence would."""
    check_decoder(student, "pocket", 3)


def test_cached_decoding__learned_positions(student):
    """A model with learned positions (GPT-2) is told them: padding does not count."""
    check_decoder(student, tiny_gpt2(), 3)


def check_witness(student, model, position_of):
    """What the stand-in for a model was given in four calls."""
    ids, mask = padded_prompts(student, real=(3, 5), longest=5)
    decoder = student.call("Decoder", model, mask)
    new, names = ids, ("new tokens", "tokens in the cache", "columns of the mask", "real tokens", "position", "id")
    for step in range(4):
        got = student.call("__call__", new, on=decoder)
        expect.equal(list(got.shape), [2, 6], "shape of the logits")
        for row, real in enumerate((3, 5)):
            real += step
            told = (new.shape[1], 5 + step - 1 if step else 0, 5 + step, real, position_of(real), int(new[row, -1]))
            for name, value, given in zip(names, told, got[row].tolist(), strict=True):
                what = f"{name} in call {step + 1}, sequence {row + 1}"
                expect.true(given == value, f"{value} {what}", f"{given:g}")
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        (left,) = fields(student, "Decoder", decoder, "attention_mask")
        expect.close(left, mask, f"attention_mask after call {step + 1}")
        new = student.integers(3, 400, 2, 1)


def test_cached_decoding__what_the_model_is_given(student):
    """The model gets the prompts once, then only new tokens, with the cache, the whole mask and each token's position."""
    check_witness(student, Witness(), lambda real: real - 1)


class Plain(Witness):
    """A stand-in whose model takes no positions, and keeps a cache only where the call asks for one."""

    def forward(self, input_ids, attention_mask=None, past_key_values=None, cache=None, use_cache=False, logits_to_keep=0):
        return super().forward(input_ids, attention_mask, None, past_key_values, cache, use_cache, logits_to_keep)


def test_cached_decoding__a_model_without_positions(student):
    """A model that takes no positions is given none; the cache is asked for in the call, whatever the model's settings say."""
    check_witness(student, Plain(), lambda real: -1)


# decode


def decoded(student, decoder, ids, gen_len, end_ids, pad_id, **sampling):
    """The four tensors of a decode."""
    result = student.call("decode", decoder, ids, gen_len, end_ids, pad_id, **sampling)
    return fields(student, "Decoded", result, "tokens", "mask", "logprobs", "sampler_logprobs")


def follow(student, gen_len, temperature=1.0, batch=3, **options):
    """Without ends: every log-probability is that of the table's row that all tokens so far lead to."""
    table, ids = 2 * student.randn(7, 6), student.integers(0, 50, batch, 4)
    got = decoded(student, TableDecoder(table), ids, gen_len, [], 0, temperature=temperature, **options)
    tokens, mask, logprobs, sampler_logprobs = got
    expect.equal(list(tokens.shape), [batch, gen_len], "shape of the tokens")
    before = ids.sum(dim=1, keepdim=True) + tokens.cumsum(dim=1) - tokens
    scaled = table[before % 7] / (temperature or 1.0)
    after = truncated(scaled.reshape(-1, 6), **options).reshape(scaled.shape).log_softmax(dim=-1)
    if temperature == 0:
        expect.equal(tokens, scaled.argmax(dim=-1), "the likeliest tokens")
    expect.close(mask, torch.ones(batch, gen_len), "mask")
    expect.close(logprobs, scaled.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0], "logprobs")
    expect.close(sampler_logprobs, after.gather(-1, tokens[..., None])[..., 0], "sampler_logprobs", atol=1e-5)


def test_decode__every_token_is_fed_back(student):
    """The decoder gets the prompts, then each new token once; tokens and log-probabilities are kept in order."""
    follow(student, 8, temperature=0.0)
    follow(student, 5)


def test_decode__sampling_options(student):
    """Temperature, top-k, top-p and the generator reach sample_tokens; both log-probabilities are kept."""
    follow(student, 12, temperature=1.6, batch=8, top_k=2)
    follow(student, 6, temperature=0.8, batch=8, top_p=0.7)
    table, drawn = student.randn(7, 6), []
    for _ in range(2):
        generator = student.call("torch.Generator")
        student.call("manual_seed", 3, on=generator)
        drawn.append(decoded(student, TableDecoder(table), torch.ones(8, 2).long(), 6, [], 0, generator=generator)[0])
    expect.equal(drawn[1], drawn[0], "tokens of a second decode with the generator in the same state")


def test_decode__no_graph(student):
    """No graph is kept, though the weights behind the logits are trained."""
    decoder = TableDecoder(student.randn(7, 6).requires_grad_())
    result = student.call("decode", decoder, student.integers(0, 50, 3, 4), 5, [], 0)
    for name in ("logprobs", "sampler_logprobs", "mask"):
        (has_graph,) = fields(student, "Decoded", result, f"{name}.requires_grad")
        expect.true(has_graph is False, f"{name} without a graph (no_grad)", "one that gradients would flow through")


def test_decode__one_token_of_one_sequence(student):
    """A batch of 1 and gen_len 1."""
    follow(student, 1, batch=1)


def check_script(student, script, ends, pad_id, gen_len, ids=None):
    """Greedy decoding of a script: what follows a row's first end is padding."""
    script = torch.tensor(script)
    batch, steps = script.shape
    ids = torch.full((batch, 3), 9) if ids is None else ids
    decoder = ScriptedDecoder(student.randn(steps, batch, 10), script)
    logprobs = decoder.logits.log_softmax(dim=-1).gather(-1, script.T[..., None])[..., 0].T
    expected = [torch.full((batch, gen_len), pad_id), *torch.zeros(2, batch, gen_len)]
    for row, tokens in enumerate(script.tolist()):
        found = [t for t in range(steps) if tokens[t] in ends]
        stop = found[0] + 1 if found else steps
        for tensor, source in zip(expected, (script, torch.ones(batch, steps), logprobs), strict=True):
            tensor[row, :stop] = source[row, :stop]
    got = decoded(student, decoder, ids, gen_len, ends, pad_id, temperature=0.0)
    for name, tensor, value in zip(("mask", "tokens", "logprobs"), (got[1], got[0], got[2]), (1, 0, 2), strict=True):
        expect.close(tensor, expected[value], name)
    expect.close(got[3], expected[2], "sampler_logprobs")


def test_decode__ends(student):
    """A sequence ends with its first end token, which is real; after it come padding, mask 0 and log-probability 0."""
    a, b, c, d = student.integers(3, 9, 4).tolist()
    script = [[a, 2, b, c, 2, d], [b, c, d, 2, a, a], [2, a, 2, b, c, d], [c, d, a, b, c, a]]
    check_script(student, script, [2], 1, 6)


def test_decode__several_end_tokens(student):
    """Any of several end tokens ends a sequence."""
    a, b = student.integers(3, 9, 2).tolist()
    check_script(student, [[a, 1, b, b, 2], [b, a, 2, a, 1], [a, b, b, a, b]], [2, 1], 0, 5)


def test_decode__end_and_padding_coincide(student):
    """The end token may be the padding token too, as in GPT-2: the mask tells which is which."""
    a, b = student.integers(3, 9, 2).tolist()
    check_script(student, [[a, 0, b, a], [b, a, b, 0], [a, a, b, b]], [0], 0, 4)


def test_decode__the_padding_token_may_be_drawn(student):
    """A padding token that the model itself writes before its end is real."""
    a, b = student.integers(3, 9, 2).tolist()
    check_script(student, [[a, 0, b, 2, a], [0, 0, a, b, b]], [2], 0, 5)


def test_decode__end_tokens_within_the_prompt(student):
    """End tokens in the prompt, such as those after worked examples, end nothing."""
    a, b = student.integers(3, 9, 2).tolist()
    check_script(student, [[a, b, 2, a], [b, b, a, a]], [2], 0, 4, ids=torch.tensor([[5, 2, 7], [6, 7, 2]]))


def test_decode__stops_when_all_have_ended(student):
    """The decoder is not called again once every sequence has ended, however long gen_len is."""
    a, b = student.integers(3, 9, 2).tolist()
    check_script(student, [[a, 2, b], [b, a, 2]], [2], 0, 8)


# rewards


def test_reward_fn_char_count__full_stops(student):
    """By default the reward is the number of full stops in each sample."""
    counts = [3, 0, 1, 7, 2]
    samples = [f"a{'x.Y' * n} z!" for n in counts]
    got = student.call("reward_fn_char_count", samples)
    expect.close(got, torch.tensor(counts).float())


def test_reward_fn_char_count__another_character(student):
    """Any other character can be counted; capitals differ from small letters."""
    counts = student.integers(0, 6, 4).tolist()
    for char, other in (("e", "E"), ("?", "!"), ("A", "a")):
        samples = [f"{other}.{char * n}{other * 2} ({other})" for n in counts]
        expect.close(student.call("reward_fn_char_count", samples, char), torch.tensor(counts).float())


def test_reward_fn_char_count__one_sample(student):
    """A batch of 1."""
    expect.close(student.call("reward_fn_char_count", ["One. Two. Three"]), torch.tensor([2.0]))


# normalize_reward


def normalised(reward, eps=1e-5):
    centred = reward - reward.sum() / len(reward)
    return centred / ((centred.square().sum() / (len(reward) - 1)).sqrt() + eps)


def test_normalize_reward__values(student):
    """(reward - mean) / (deviation + eps), in the order given; the deviation divides by n - 1."""
    for count in (4, 9, 2):
        agree(student, "normalize_reward", normalised, 5 + 3 * student.randn(count))


def test_normalize_reward__eps_is_added(student):
    """eps is added to the deviation, which matters where rewards hardly differ."""
    spread = torch.linspace(-1, 1, 6)[student.rand(6).argsort()] * (1 + student.rand(1))
    agree(student, "normalize_reward", normalised, spread, 2.5)
    agree(student, "normalize_reward", normalised, 1e-4 * spread)


def test_normalize_reward__equal_rewards(student):
    """Whole rewards that are all the same give zeros, not a division by zero."""
    level = float(student.integers(1, 9, 1))
    expect.close(student.call("normalize_reward", torch.full((4,), level)), torch.zeros(4))


def test_normalize_reward__double_precision(student):
    """Rewards in float64 stay float64."""
    agree(student, "normalize_reward", normalised, student.randn(5).double())


def test_rewards_without_spread__one_reward(student):
    """A single reward has nothing to be compared with: zero, not nan."""
    expect.equal(student.call("normalize_reward", 2 + student.rand(1)), torch.zeros(1))


def test_rewards_without_spread__equal_rewards(student):
    """Equal rewards give exact zeros, though their computed mean may be off in its last digit."""
    for level, count in ((0.1, 3), (0.7, 7), (1 / 3, 11), (1000.1, 6)):
        expect.equal(student.call("normalize_reward", torch.full((count,), level)), torch.zeros(count))


def test_rewards_without_spread__a_little_spread(student):
    """Rewards that differ at all are normalised as before; negative and zero rewards too."""
    for size in (1e-3, 1e-9):
        agree(student, "normalize_reward", normalised, size * student.randn(5))
    agree(student, "normalize_reward", normalised, torch.tensor([0.0, 0.0, 0.0, 1.0])[student.rand(4).argsort()])


# rollout and get_samples

QUESTIONS = (
    "Question: Anna has 12 apples. Ben gives Anna 5 more. How many apples does Anna have now?\nAnswer:\n",
    "Question: Omar has 3 keys. Omar loses 2. Omar finds 9 more. How many keys does Omar have now?\nAnswer:\n",
    "Anna has 4 toys.",
)


ROUNDING = 1e-4  # how far two right ways of computing a logit may differ; ten times what they do


def adapted_policy(student):
    """A policy of the bundled model whose adapters hold random numbers, and the library's own with the same."""
    policy, ours = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu"), library_model("pocket")
    fresh = {name: 0.15 * student.randn(*tensor.shape) for name, tensor in ours.lora.named_parameters()}
    student.tensors(student.call("lora", on=policy), new=fresh)
    with torch.no_grad():
        for name, tensor in ours.lora.named_parameters():
            tensor.copy_(fresh[name])
    return policy, ours


def refused(student, what, name, *args, **options):
    """A call that must raise InputError: the error's class is looked at, no line of code."""
    try:
        got = expect.show(student.call(name, *args, **options))
    except Crash as error:
        got = dict(error.lines)["got"]
    expect.true(got.startswith("InputError:"), f"an InputError: {what}", got)


def policy_logits(ours, ids, attention_mask=None, adapted=True):
    """Logits that predict each token but the first, with the adapters or without, in one pass without a cache."""
    with torch.no_grad():
        logits = ours.forward_with_value_head(ids, attention_mask)[0] if adapted else ours(ids, attention_mask)
    return logits[:, :-1]


def check_likeliest(logits, tokens, real=None):
    """Each token is the likeliest, or as good as: two ways of computing may differ in the last digit."""
    chosen = logits.gather(-1, tokens[..., None])[..., 0]
    worse = (chosen < logits.max(dim=-1).values - ROUNDING) & (torch.ones_like(tokens) if real is None else real).bool()
    if worse.any():
        row, step = worse.nonzero()[0].tolist()
        likeliest, drawn = int(logits[row, step].argmax()), int(tokens[row, step])
        expect.true(False, f"token {likeliest}, the policy's likeliest, {step} after the prompt in sequence {row}", str(drawn))


def check_rollout(student, model, ours, prompts, gen_len, adapted=True, **options):
    """A rollout's fields agree with each other, and its log-probabilities with one pass over its ids."""
    result = student.call("rollout", model, list(prompts), gen_len, **options)
    names = ("ids", "attention_mask", "mask", "logprobs", "sampler_logprobs", "completions")
    ids, attention_mask, mask, logprobs, sampler_logprobs, completions = fields(student, "Rollout", result, *names)
    prompt_ids, prompt_mask = ours.encode(list(prompts), options.get("prepend_bos", True))
    prefix = prompt_ids.shape[1]
    expect.equal(list(ids.shape), [len(prompts), prefix + gen_len], "shape of ids")
    expect.equal(ids[:, :prefix], prompt_ids, "the prompts in ids")
    tokens = ids[:, prefix:]
    expected_mask = mask_of(tokens, ours.end_ids if options.get("stop_at_eos", True) else [])
    expect.close(mask, expected_mask, "mask")
    expect.equal(tokens[mask == 0], torch.full_like(tokens[mask == 0], ours.tokenizer.pad_token_id), "ids after the end")
    expect.close(attention_mask, torch.cat([prompt_mask, expected_mask.long()], dim=1), "attention_mask")
    logits = policy_logits(ours, ids, attention_mask, adapted)[:, prefix - 1 :]
    check_scores(logits, tokens, mask, (logprobs, sampler_logprobs), **options)
    rows = [row[: int(real.sum())] for row, real in zip(tokens, mask, strict=True)]
    texts = [ours.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    expect.equal(completions, texts, "completions")
    return tokens


def mask_of(tokens, end_ids):
    """1 up to and including the first end of each row."""
    is_end = torch.isin(tokens, torch.tensor(end_ids, dtype=tokens.dtype))
    return ((is_end.cumsum(dim=1) - is_end.long()) == 0).float()


def check_scores(logits, tokens, mask, got, temperature=1.0, top_k=None, top_p=None, **options):
    """The log-probabilities of a rollout, from the logits of the policy; a `top_p` is so small that the likeliest is left."""
    if temperature == 0:
        check_likeliest(logits, tokens, mask)
    scaled = logits / (temperature or 1.0)
    chosen = scaled.gather(-1, tokens[..., None])[..., 0]
    kept = 1 if top_p else top_k or scaled.shape[-1]
    best = scaled.topk(kept, dim=-1).values
    outside = int(((chosen < best[..., -1] - ROUNDING) & mask.bool()).sum())
    expect.true(outside == 0, f"only the {kept} likeliest tokens", f"{outside} others")
    for name, given, total in (("logprobs", got[0], scaled), ("sampler_logprobs", got[1], best)):
        expected = (chosen - total.logsumexp(dim=-1)).masked_fill(mask == 0, 0.0)
        expect.close(given, expected, name, rtol=1e-4, atol=1e-4)


def test_rollout__the_adapted_policy(student):
    """Prompts of different lengths, sampled greedily from the policy with its adapters; they stay as they are afterwards."""
    policy, ours = adapted_policy(student)
    ids = student.integers(3, 400, 1, 5)
    before, _ = student.call("forward_with_value_head", ids, on=policy)
    check_rollout(student, policy, ours, QUESTIONS, 8, temperature=0.0)
    after, _ = student.call("forward_with_value_head", ids, on=policy)
    expect.equal(after, before, "the policy's logits after sampling")


def test_rollout__ends(student):
    """A completion ends at the end-of-sequence token; its text has neither that token nor what follows."""
    policy = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu")
    check_rollout(student, policy, library_model("pocket"), QUESTIONS, 16, adapted=False, temperature=0.0)


def test_rollout__without_ends(student):
    """With stop_at_eos=False every completion has gen_len real tokens."""
    policy = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu")
    ours = library_model("pocket")
    check_rollout(student, policy, ours, QUESTIONS, 16, adapted=False, temperature=0.0, stop_at_eos=False)


def test_rollout__temperature_and_top_k(student):
    """Temperature, top-k and top-p decide what is drawn; both log-probabilities are kept."""
    policy, ours = adapted_policy(student)
    check_rollout(student, policy, ours, QUESTIONS, 8, temperature=1.7, top_k=3)
    check_rollout(student, policy, ours, QUESTIONS[2:], 3, temperature=1.7, top_p=1e-3)


def test_rollout__a_bare_bridge(student):
    """A TransformerBridge is sampled as it is; the beginning-of-sequence token may be left out."""
    policy, ours = adapted_policy(student)
    bridge = student.call("base_model", on=policy)
    check_rollout(student, bridge, ours, QUESTIONS[:1], 6, adapted=False, temperature=0.0, prepend_bos=False)


def test_rollout__generator(student):
    """The generator that is given decides: the same state gives the same completions."""
    policy, _ = adapted_policy(student)
    drawn = []
    for _ in range(2):
        generator = student.call("torch.Generator")
        student.call("manual_seed", 5, on=generator)
        result = student.call("rollout", policy, ["Anna has 4 toys."] * 4, 6, temperature=1.5, generator=generator)
        drawn += fields(student, "Rollout", result, "ids")
    expect.equal(drawn[1], drawn[0], "ids of a second rollout with the generator in the same state")
    result = student.call("rollout", policy, ["Anna has 4 toys."] * 4, 6, temperature=1.5)
    (other,) = fields(student, "Rollout", result, "ids")
    expect.true(not torch.equal(other, drawn[0]), "other ids without a generator: torch's global one", "the same ids")


def test_rollout__defaults(student):
    """Without further arguments: temperature 1, nothing cut, a beginning, ends."""
    policy = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu")
    check_rollout(student, policy, library_model("pocket"), QUESTIONS, 12, adapted=False)
    names = {"temperature": 1.0, "top_k": None, "top_p": None, "prepend_bos": True, "stop_at_eos": True, "generator": None}
    require_defaults(student, "rollout", **names)


@functools.cache
def spaced_gpt2():
    """A directory, removed at exit: a random GPT-2 with a context of 16, whose tokenizer has neither beginning nor end.

    It marks spaces as SentencePiece does, and drops the one that a text begins with.
    """
    directory = tempfile.mkdtemp(prefix="spaced-gpt2-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    words = [f"\u2581{word}" for word in ("Anna", "Ben", "has", "gives", "3", "4", "toys", "keys")]
    tokens = {token: i for i, token in enumerate([words[0], "<pad>", *words[1:]])}
    own = Tokenizer(WordLevel(tokens, unk_token="<pad>"))
    own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="<pad>")
    sizes = {"vocab_size": len(tokens), "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None, pad_token_id=1))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return directory


def test_rollout__the_text_that_a_completion_adds(student):
    """A completion keeps the space that it begins with, which some tokenizers drop where they decode it alone."""
    policy, ours = (
        student.call("TransformerWithLora.from_pretrained", spaced_gpt2(), device="cpu"),
        library_model(spaced_gpt2()),
    )
    prompts = ["Anna has 4 toys", "Ben gives"]
    result = student.call("rollout", policy, prompts, 5, stop_at_eos=False)
    ids, completions = fields(student, "Rollout", result, "ids", "completions")
    expect.equal(ids[:, :-5], ours.encode(prompts)[0], "the prompts in ids")
    texts = [ours.tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    expect.equal([prompt + text for prompt, text in zip(prompts, completions, strict=True)], texts, "prompts and completions")


def test_rollout__what_is_refused(student):
    """No prompts, a prompt too long for the context, and ends of a model that has none are refused with an InputError."""
    policy = student.call("TransformerWithLora.from_pretrained", spaced_gpt2(), device="cpu")
    twelve, twenty = (" ".join(["Anna has 4 toys"] * count) for count in (3, 5))
    student.call("rollout", policy, [twelve], 4, stop_at_eos=False)
    refused(student, "20 tokens exceed the context of 16", "rollout", policy, [twenty], 1, stop_at_eos=False)
    refused(student, "12 tokens and 5 more exceed the context of 16", "rollout", policy, [twelve], 5, stop_at_eos=False)
    refused(student, "no prompts", "rollout", policy, [], 4, stop_at_eos=False)
    refused(student, "the model has no end-of-sequence token", "rollout", policy, ["Anna has"], 4)


def samples(student, model, ours, prompt, batch, gen_len, temperature=1.0, top_k=15, prepend_bos=True, **options):
    """The classic call; returns prompt length and ids after checking their layout and the texts."""
    got = student.call("get_samples", model, prompt, batch, gen_len, temperature, top_k, prepend_bos, **options)
    expect.true(isinstance(got, (tuple, list)) and len(got) == 2, "two results: ids and texts", expect.show(got))
    ids, texts = got
    start = ours.encode([prompt] if isinstance(prompt, str) else prompt, prepend_bos)[0].repeat_interleave(batch, dim=0)
    rows, prefix = start.shape
    if not options.get("stop_at_eos"):
        expect.equal(list(ids.shape), [rows, prefix + gen_len], "shape of ids")
    expect.equal(ids[:, :prefix], start, "the prompts in ids")
    expect.equal([type(texts), len(texts)], [list, rows], "kind and number of the texts")
    plain = functools.reduce(
        lambda text, token: text.replace(token, ""), ours.tokenizer.all_special_tokens, "\n==\n".join(texts)
    )
    expect.equal(plain.split("\n==\n"), [ours.tokenizer.decode(row, skip_special_tokens=True) for row in ids], "texts")
    return prefix, ids


def test_get_samples__ids_and_texts(student):
    """Whole sequences, prompt first, gen_len tokens after it; whole texts, prompt included."""
    policy = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu")
    for batch, gen_len, prepend_bos in ((3, 5, True), (1, 4, True), (2, 6, False)):
        samples(student, policy, library_model("pocket"), "Question: Omar has 3", batch, gen_len, prepend_bos=prepend_bos)


def test_get_samples__the_adapted_policy(student):
    """The policy is sampled with its adapters; with top_k=1 that leaves the likeliest token."""
    policy, ours = adapted_policy(student)
    prefix, ids = samples(student, policy, ours, "Question: Omar has 3", 2, 8, top_k=1)
    check_likeliest(policy_logits(ours, ids)[:, prefix - 1 :], ids[:, prefix:])


def test_get_samples__a_bare_bridge(student):
    """A TransformerBridge is sampled as it is."""
    policy, ours = adapted_policy(student)
    prefix, ids = samples(student, student.call("base_model", on=policy), ours, "Question: Omar has 3", 2, 8, top_k=1)
    check_likeliest(policy_logits(ours, ids, adapted=False)[:, prefix - 1 :], ids[:, prefix:])


def test_get_samples__past_the_end(student):
    """Sampling goes on past the end-of-sequence token: gen_len tokens of the model's, whatever it says."""
    policy, ours = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu"), library_model("pocket")
    prefix, ids = samples(student, policy, ours, QUESTIONS[0], 2, 20, top_k=1)
    check_likeliest(policy_logits(ours, ids, adapted=False)[:, prefix - 1 :], ids[:, prefix:])


def test_get_samples__temperature_and_top_k(student):
    """Tokens are drawn from softmax(logits / temperature), cut to the top_k likeliest, each sequence for itself."""
    policy, ours = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu"), library_model("pocket")
    for temperature, top_k in ((0.5, 15), (2.0, 3)):
        prefix, ids = samples(student, policy, ours, "Answer:\n", 400, 1, temperature, top_k)
        logits = policy_logits(ours, ids[:1], adapted=False)[:, prefix - 1]
        probs, order = largest_kept(logits / temperature, top_k)[0].softmax(dim=-1).sort(descending=True)
        place = order.argsort()[ids[:, -1]]
        expect.true(int(place.max()) < top_k, f"only the {top_k} likeliest tokens", f"the {int(place.max()) + 1}th likeliest")
        check_frequencies(place.clamp(max=2), torch.stack([probs[0], probs[1], probs[2:].sum()]))


def test_get_samples__defaults(student):
    """The arguments that a call may leave out mean what the signature says."""
    policy = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu")
    got = student.call("get_samples", policy, "Anna has", 2)
    expect.true(isinstance(got, (tuple, list)) and len(got) == 2, "two results: ids and texts", expect.show(got))
    prefix = library_model("pocket").encode(["Anna has"])[0].shape[1]
    expect.equal(list(got[0].shape), [2, prefix + 15], "shape of ids")
    require_defaults(student, "get_samples", gen_len=15, temperature=0.8, top_k=15, prepend_bos=True)
    require_defaults(student, "get_samples", top_p=None, verbose=False, stop_at_eos=False, generator=None)


def test_get_samples__several_prompts(student):
    """Of a list each prompt gets batch_size in a row, padded on the left; not asked of an answer with the classic arguments."""
    if not student.has_parameter("get_samples", "stop_at_eos"):
        return
    policy, ours = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu"), library_model("pocket")
    prefix, ids = samples(student, policy, ours, ["Question: Omar has 3", "Anna"], 2, 5, top_k=1)
    mask = ours.encode(["Question: Omar has 3", "Anna"])[1].repeat_interleave(2, dim=0)
    seen = torch.nn.functional.pad(mask, (0, 5), value=1)
    check_likeliest(policy_logits(ours, ids, seen, adapted=False)[:, prefix - 1 :], ids[:, prefix:])


def test_get_samples__keyword_arguments(student):
    """top_p, stop_at_eos and generator do as they do in rollout; an answer that lacks one is not asked for it."""
    policy, ours = student.call("TransformerWithLora.from_pretrained", "pocket", device="cpu"), library_model("pocket")
    if student.has_parameter("get_samples", "top_p"):
        prefix, ids = samples(student, policy, ours, "Question: Omar has 3", 2, 4, top_k=None, top_p=1e-3)
        check_likeliest(policy_logits(ours, ids, adapted=False)[:, prefix - 1 :], ids[:, prefix:])
    if student.has_parameter("get_samples", "stop_at_eos"):
        prefix, ids = samples(student, policy, ours, QUESTIONS[0], 2, 20, top_k=1, stop_at_eos=True)
        after = ids[:, prefix:][mask_of(ids[:, prefix:], ours.end_ids) == 0].tolist()
        filling = {ours.tokenizer.pad_token_id, *ours.end_ids}
        expect.true(set(after) <= filling, "nothing but padding or ends after an end", f"tokens {after[:8]}")
    if student.has_parameter("get_samples", "generator"):
        drawn = []
        for _ in range(2):
            generator = student.call("torch.Generator")
            student.call("manual_seed", 5, on=generator)
            drawn.append(samples(student, policy, ours, "Anna has", 3, 5, top_k=None, generator=generator)[1])
        expect.equal(drawn[1], drawn[0], "ids of a second call with the generator in the same state")
