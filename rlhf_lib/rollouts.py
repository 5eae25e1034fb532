"""Sampling completions and scoring them.

`get_samples` is the classic call for one fixed prompt. `rollout` is what trainers use: many prompts, end-of-sequence masks,
log-probabilities. Both sample the policy, adapters included, with a key-value cache; adapters are merged meanwhile, so they
cost nothing. Log-probabilities are of the distribution sampled from, softmax(logits / temperature); top-k and top-p cut that
distribution further, which makes the sampler differ from the policy that is scored. `Rollout.sampler_logprobs` keeps what
was really sampled from, so that the gap can be reported.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from rlhf_lib import engine
from rlhf_lib.args import InputError
from rlhf_lib.engine import sped_up_by
from rlhf_lib.layout import generated, with_last_of_prompt
from rlhf_lib.models import encode_prompts, padding_id
from rlhf_lib.models.caching import cache_name, check_sampling, pass_cache_by_any_name, takes_positions


@dataclass
class Rollout:
    """Completions of a batch of prompts; generated tokens fill the last gen positions whatever the prompts' lengths."""

    ids: Int[Tensor, "batch seq"]
    """Left padding, prompt, generated tokens; after the end, padding."""
    attention_mask: Int[Tensor, "batch seq"]
    """0 on left padding, and on what follows the end."""
    mask: Float[Tensor, "batch gen"]
    """What is trained: 1 up to and including the first end-of-sequence token, 0 after, and on what was put in from outside."""
    logprobs: Float[Tensor, "batch gen"]
    """Log-probabilities of the sampled tokens under softmax(logits / temperature), in nats."""
    sampler_logprobs: Float[Tensor, "batch gen"]
    """The same after top-k and top-p; equal to `logprobs` without them."""
    completions: list[str]
    """Text that the generated tokens up to the end add to the prompt's; see decode_texts."""

    @property
    def prefix_len(self) -> int:
        """Prompt length after left padding."""
        return self.ids.shape[1] - self.mask.shape[1]

    @property
    def ended(self) -> list[bool]:
        """Which completions ended before the last position that they could have."""
        return (self.attention_mask[:, -1] == 0).tolist()

    @property
    def completion_ids(self) -> list[list[int]]:
        """Tokens of each completion, the end included, padding left out."""
        rows = generated(self.ids, self.mask.shape[1]).tolist()
        return [row[: int(count)] for row, count in zip(rows, self.lengths.tolist(), strict=True)]

    @property
    def lengths(self) -> Float[Tensor, " batch"]:
        """Tokens of each completion, the end included, and what was put into it from outside."""
        return generated(self.attention_mask, self.mask.shape[1]).to(self.mask.dtype).sum(dim=1)

    def take(self, rows: list[int]) -> "Rollout":
        """The completions of these numbers, in this order."""
        columns = {name: value[rows] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Rollout(**columns, completions=[self.completions[i] for i in rows])


def joined(rollouts: list[Rollout]) -> Rollout:
    """Completions of several rollouts of one gen_len in one: prompts are padded on the left to the longest."""
    longest = max(rollout.prefix_len for rollout in rollouts)

    def padded(whole: Int[Tensor, "batch seq"], rollout: Rollout) -> Int[Tensor, "batch longest"]:
        return nn.functional.pad(whole, (longest - rollout.prefix_len, 0))  # token 0, which no mask shows

    return Rollout(
        ids=torch.cat([padded(rollout.ids, rollout) for rollout in rollouts]),
        attention_mask=torch.cat([padded(rollout.attention_mask, rollout) for rollout in rollouts]),
        mask=torch.cat([rollout.mask for rollout in rollouts]),
        logprobs=torch.cat([rollout.logprobs for rollout in rollouts]),
        sampler_logprobs=torch.cat([rollout.sampler_logprobs for rollout in rollouts]),
        completions=[text for rollout in rollouts for text in rollout.completions],
    )


def keep_top_k(logits: Float[Tensor, "batch vocab"], top_k: int) -> Float[Tensor, "batch vocab"]:
    """Logits with -inf in place of all but the `top_k` largest of each row; the others as they are, not renormalised.

    A `top_k` of vocab or more keeps everything. Tokens tied with the last one that stays, stay too.
    """
    if top_k >= logits.shape[-1]:
        return logits
    smallest_kept = logits.topk(top_k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest_kept, -float("inf"))


def keep_top_p(logits: Float[Tensor, "batch vocab"], top_p: float) -> Float[Tensor, "batch vocab"]:
    """Logits with -inf outside each row's nucleus: the smallest set of likeliest tokens that holds probability `top_p`.

    Probabilities are softmax(logits). The token with which the sum reaches `top_p` belongs to the set, so the likeliest token
    always stays. A `top_p` of 1 keeps everything (Holtzman et al. 2020, section 3.1).
    """
    if top_p >= 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True)
    probs = ordered.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # what the likelier tokens hold together
    outside = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= top_p)
    return logits.masked_fill(outside, -float("inf"))


def truncate_logits(
    logits: Float[Tensor, "batch vocab"], top_k: int | None = None, top_p: float | None = None
) -> Float[Tensor, "batch vocab"]:
    """Logits after keep_top_k and then keep_top_p, each where it is given; without both the logits as they are.

    Top-p thus takes its probabilities after top-k, as softmax of what that left.
    """
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    return logits


def sample_tokens(
    logits: Float[Tensor, "batch vocab"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """One token for each row: (tokens, their log-probabilities under the policy, and under what was sampled from).

    The policy is softmax(logits / temperature). `top_k` and `top_p`, where given, then cut that distribution (see
    truncate_logits) and what is left is renormalised; the token is drawn from the result, with `generator` as the source of
    randomness (None: torch's global one). Temperature 0 takes the likeliest token; its log-probabilities are then those at
    temperature 1. All is computed in float32.
    """
    logits = logits.float()
    scaled = logits / temperature if temperature > 0 else logits
    logprobs = scaled.log_softmax(dim=-1)
    truncated = truncate_logits(scaled, top_k, top_p).log_softmax(dim=-1) if top_k or top_p else logprobs
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        tokens = torch.multinomial(truncated.exp(), 1, generator=generator).squeeze(1)
    return tokens, take(logprobs, tokens), take(truncated, tokens)


def take(logprobs: Float[Tensor, "*batch vocab"], tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """For each token id, the entry of that id in the last axis: result[i, t] = logprobs[i, t, tokens[i, t]]."""
    return logprobs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def get_logprobs(
    logits: Float[Tensor, "batch seq vocab"],
    tokens: Int[Tensor, "batch seq"],
    prefix_len: int | None = None,
    *,
    temperature: float = 1.0,
) -> Float[Tensor, "batch gen"]:
    """Log-probabilities of tokens given what stands before them, in nats, under softmax(logits / temperature).

    The logits at one position predict the next, so token prefix_len is scored by the logits at prefix_len - 1, and the last
    position's logits score nothing. `prefix_len` is the number of tokens that are given, not scored: the result is
    [batch seq-prefix_len]. None scores every token but the first: [batch seq-1]. `temperature` must be the one of sampling.
    """
    first = 1 if prefix_len is None else prefix_len
    return take((logits[:, first - 1 : -1].float() / temperature).log_softmax(dim=-1), tokens[:, first:])


@dataclass
class TokenScores:
    """What policy and reference make of the generated tokens of a rollout; data, without gradients."""

    logits: Float[Tensor, "batch kept vocab"]
    """The policy's, at the last gen + 1 positions."""
    ref_logits: Float[Tensor, "batch kept vocab"]
    """The reference policy's."""
    logprobs: Float[Tensor, "batch gen"]
    """Log-probabilities of the tokens under the policy, softmax(logits / temperature), in nats."""
    ref_logprobs: Float[Tensor, "batch gen"]
    """The same under the reference policy."""
    values: Float[Tensor, "batch seq"] | None = None
    """The value head's, at the positions where tokens were chosen; None without a head."""


@torch.no_grad()
def score_tokens(model: Any, ref_model: Any, sampled: Rollout, temperature: float = 1.0) -> TokenScores:
    """One pass of the policy and one of the reference over a rollout, whose padding neither sees; no graph is kept.

    Args:
        model: its forward_with_value_head gives the policy's logits and, with a head, values.
        ref_model: called for the reference policy's logits.
        sampled: the completions; ids and attention_mask are read, and `mask` has gen_len columns.
        temperature: that of sampling.
    """
    gen_len = sampled.mask.shape[1]
    inputs = {"attention_mask": sampled.attention_mask, "logits_to_keep": gen_len + 1}
    logits, values = model.forward_with_value_head(sampled.ids, **inputs)
    ref_logits = ref_model(sampled.ids, **inputs)
    tokens = with_last_of_prompt(sampled.ids, gen_len)
    logprobs = get_logprobs(logits, tokens, temperature=temperature)
    ref_logprobs = get_logprobs(ref_logits, tokens, temperature=temperature)
    return TokenScores(logits, ref_logits, logprobs, ref_logprobs, values)


class Decoder:
    """Next-token logits of a Hugging Face model with a key-value cache, for left-padded prompts.

    The model is called beneath the bridge's own forward, which keeps hooks and merged weights but saves time; positions
    are then given, since GPT-2 and GPT-Neo would count padding.
    """

    def __init__(self, model: nn.Module, attention_mask: Int[Tensor, "batch prefix"]):
        """`model` is the Hugging Face model; `attention_mask` is 0 on the prompts' left padding, 1 elsewhere."""
        self.model, self.attention_mask, self.cache = model, attention_mask, None
        self.takes_positions, self.cache_name = takes_positions(model), cache_name(model)

    def __call__(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch vocab"]:
        """Logits of the token after the last of `ids`: the first call gets the prompts, each later one the newest tokens alone.

        `self.attention_mask` [batch, all tokens so far] covers `ids` when the call begins, and one token more when it ends;
        `self.cache` is None at first and then holds the model's keys and values of all tokens so far. A token's position is
        the number of real tokens before it in its row; padding may have any position that the model knows, such as 0.
        `position_ids` go to the model only where `self.takes_positions`. What the model calls its cache, as argument and in
        its output, is `self.cache_name`. The model is asked for its cache (`use_cache=True`), whatever its settings say.
        """
        options = {self.cache_name: self.cache}
        if self.takes_positions:
            positions = (self.attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
            options["position_ids"] = positions[:, -ids.shape[1] :]
        output = self.model(
            input_ids=ids,
            attention_mask=self.attention_mask,
            use_cache=True,
            logits_to_keep=1,
            **options,
        )
        self.cache = getattr(output, self.cache_name)
        self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(self.attention_mask[:, :1])], dim=1)
        return output.logits[:, -1]


class PolicyDecoder(Decoder):
    """A Decoder that knows the model's fast passes, by which `decode` may do without it."""

    def __init__(self, passes: engine.Passes, attention_mask: Int[Tensor, "batch prefix"]):
        super().__init__(passes.hf, attention_mask)
        self.passes = passes


@dataclass
class Decoded:
    """What the decode loop gives: all [batch gen]."""

    tokens: Int[Tensor, "batch gen"]
    mask: Float[Tensor, "batch gen"]
    logprobs: Float[Tensor, "batch gen"]
    sampler_logprobs: Float[Tensor, "batch gen"]


def decode_fast(
    decoder: Any,
    ids: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Any:
    """`decode` for the models that the engine covers: same tokens from the same random numbers, fewer operations."""
    if not isinstance(decoder, PolicyDecoder) or decoder.cache is not None:
        return NotImplemented
    truncate = (lambda logits: truncate_logits(logits, top_k, top_p)) if top_k or top_p else None
    columns = decoder.passes.decode(
        ids,
        decoder.attention_mask,
        gen_len,
        end_ids,
        pad_id,
        lambda batch, first: engine.Draws(batch, temperature, truncate, generator, first),
    )
    return NotImplemented if columns is None else Decoded(*columns)


@sped_up_by(decode_fast)
@torch.no_grad()
def decode(
    decoder: Callable[[Int[Tensor, "batch new"]], Float[Tensor, "batch vocab"]],
    ids: Int[Tensor, "batch prefix"],
    gen_len: int,
    end_ids: list[int],
    pad_id: int,
    **sampling: Any,
) -> Decoded:
    """The sampling loop: `gen_len` tokens for every sequence, or fewer once it has met one of `end_ids`.

    `decoder(ids)` gives next-token logits: it is called with the prompts first, then with the newest tokens [batch 1] alone,
    and no more once every sequence has ended. `sampling` are the keyword arguments of sample_tokens. The end token itself is
    real: mask 1, its own log-probabilities. After it, tokens are `pad_id`, and mask and log-probabilities 0. End tokens within
    the prompts end nothing. No graph is kept.
    """
    batch = len(ids)
    tokens = ids.new_full((batch, gen_len), pad_id)
    mask, logprobs, sampler_logprobs = torch.zeros(3, batch, gen_len, device=ids.device)
    ends = torch.tensor(end_ids, device=ids.device, dtype=ids.dtype)
    running: Bool[Tensor, " batch"] = torch.ones(batch, dtype=torch.bool, device=ids.device)
    new = ids
    for t in range(gen_len):
        token, logprob, sampler_logprob = sample_tokens(decoder(new), **sampling)
        token = torch.where(running, token, pad_id)
        tokens[:, t], mask[:, t] = token, running.float()
        logprobs[:, t], sampler_logprobs[:, t] = logprob * running, sampler_logprob * running
        running = running & ~torch.isin(token, ends)
        if not running.any():
            break
        new = token[:, None]
    return Decoded(tokens, mask, logprobs, sampler_logprobs)


def check_length(prefix_len: int, gen_len: int, context: int) -> None:
    """Prompt and completion must fit the model's context."""
    if prefix_len + gen_len > context:
        remedy = f"use gen_len of at most {context - prefix_len}" if prefix_len < context else "shorten the prompts"
        raise InputError(
            f"the longest prompt has {prefix_len} tokens and gen_len={gen_len}, over the model's context of {context} "
            f"together; {remedy}"
        )


def sampling_parts(model: Any) -> tuple[Any, AbstractContextManager[Callable[[Int[Tensor, "batch prefix"]], Decoder]]]:
    """The bridge that generates, and the context in which it is the policy: it gives what makes a Decoder of a mask.

    A bare TransformerBridge is its own policy.
    """
    if isinstance(model, TransformerBridge):
        pass_cache_by_any_name(model)
        bridge, passes = model, engine.Passes(model.original_model)
        as_policy = nullcontext(partial(PolicyDecoder, passes))
    else:
        bridge, passes = model.base_model, model.base.passes
        as_policy = policy_of(model)
    check_sampling(bridge, passes)
    return bridge, as_policy


@contextmanager
def policy_of(model: Any) -> Iterator[Callable[[Int[Tensor, "batch prefix"]], Decoder]]:
    """Inside, the base model is the policy, and the engine knows by which trained parameters."""
    passes = model.base.passes
    with passes.sampling_from(model.sampled_policy, model.pass_options), model.merged():
        yield partial(PolicyDecoder, passes)


def rollout(
    model: Any,
    prompts: list[str],
    gen_len: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prepend_bos: bool = True,
    stop_at_eos: bool = True,
    generator: torch.Generator | None = None,
) -> Rollout:
    """One completion of at most `gen_len` tokens for every prompt, sampled from the policy.

    Args:
        model: a policy of rlhf_lib.models, or a TransformerBridge.
        prompts: any number, of any lengths; they are padded on the left.
        temperature: 0 is greedy.
        stop_at_eos: end a completion at the tokenizer's end-of-sequence token; otherwise all have gen_len tokens.
        generator: source of randomness; None takes torch's global one.

    Raises:
        InputError: no prompts, a prompt too long for the context, or stop_at_eos with a model that has no such token.
    """
    bridge, as_policy = sampling_parts(model)
    tokenizer = bridge.tokenizer if model is bridge else model.tokenizer
    ids, attention_mask = encode_prompts(tokenizer, prompts, prepend_bos)
    check_length(ids.shape[1], gen_len, bridge.cfg.n_ctx)
    end_ids = end_ids_of(model, tokenizer) if stop_at_eos else []
    device = next(bridge.parameters()).device
    ids, attention_mask = ids.to(device), attention_mask.to(device)
    sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
    with as_policy as decoder_of:
        decoder = decoder_of(attention_mask)
        decoded = decode(decoder, ids, gen_len, end_ids, padding_id(tokenizer), **sampling)
    return Rollout(
        ids=torch.cat([ids, decoded.tokens], dim=1),
        attention_mask=torch.cat([attention_mask, decoded.mask.to(attention_mask.dtype)], dim=1),
        mask=decoded.mask,
        logprobs=decoded.logprobs,
        sampler_logprobs=decoded.sampler_logprobs,
        completions=decode_texts(tokenizer, ids, attention_mask, decoded, end_ids),
    )


def decode_texts(
    tokenizer: Any,
    ids: Int[Tensor, "batch prefix"],
    attention_mask: Int[Tensor, "batch prefix"],
    decoded: Decoded,
    end_ids: list[int],
) -> list[str]:
    """What each completion's real tokens add to the text of its prompt: both are decoded together, then the prompt is cut off.

    Decoded alone, a completion would lose the space that it begins with (SentencePiece). Left out are the tokenizer's tokens
    for beginning, end and padding, and a last token of `end_ids`. All other special tokens stay, as they are written: tags such
    as </answer> may be special tokens, and rewards read them; so may markers of a turn that ended nothing.

    Args:
        tokenizer: of the model.
        ids, attention_mask: the prompts, padded on the left.
        decoded: the completions.
        end_ids: the tokens that end a completion; empty where none does.
    """
    unwritten = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}

    @cache
    def read(*tokens: int) -> str:
        return tokenizer.decode([i for i in tokens if i not in unwritten], clean_up_tokenization_spaces=False)

    texts = []
    counts = zip(attention_mask.sum(dim=1).tolist(), decoded.mask.sum(dim=1).int().tolist(), strict=True)
    for prompt, tokens, (real, count) in zip(ids.tolist(), decoded.tokens.tolist(), counts, strict=True):
        added = tokens[:count]
        if added and added[-1] in end_ids:
            added = added[:-1]
        texts.append(added_text(read, prompt[len(prompt) - real :], added))
    return texts


def added_text(read: Callable[..., str], prompt: list[int], added: list[int]) -> str:
    """The text that tokens add to that of a prompt; `read(*tokens)` is the text of tokens.

    A prompt that ends within a character (as text: in U+FFFD) has its last character from the completion. Where the completion
    changes what stands before that, as bytes do that make no character and take whole ones before them along, the prompt is
    read without its last tokens.
    """
    before, whole = read(*prompt), read(*prompt, *added)
    differing = (i for i, (ours, theirs) in enumerate(zip(before, whole, strict=False)) if ours != theirs)
    shared = next(differing, min(len(before), len(whole)))
    if not before[shared:].strip("\ufffd"):
        return whole[shared:]
    while not whole.startswith(before) or before.endswith("\ufffd"):
        prompt = prompt[:-1]
        before, whole = read(*prompt), read(*prompt, *added)
    return whole[len(before) :]


def end_ids_of(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a completion, or a clear error if there are none."""
    own = isinstance(model, TransformerBridge)
    ids = [i for i in [tokenizer.eos_token_id] if i is not None] if own else model.end_ids
    if not ids:
        raise InputError(
            "stop_at_eos is asked for but neither the tokenizer nor the model's generation settings name an end-of-sequence "
            "token; set tokenizer.eos_token, or pass stop_at_eos=False"
        )
    return ids


def get_samples(
    model: Any,
    prompt: str | list[str],
    batch_size: int,
    gen_len: int = 15,
    temperature: float = 0.8,
    top_k: int | None = 15,
    prepend_bos: bool = True,
    *,
    top_p: float | None = None,
    verbose: bool = False,
    stop_at_eos: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch seq"], list[str]]:
    """`batch_size` continuations of a prompt: whole token sequences, and whole texts with the prompt included.

    `model` is a policy, which is sampled with its adapters, or a bare TransformerBridge. Exactly `gen_len` tokens each,
    whatever end-of-sequence says, unless `stop_at_eos`. The beginning-of-sequence token goes first if `prepend_bos`. Of a list,
    each prompt gets `batch_size` in a row; shorter ones are padded on the left. `verbose` prints the texts.
    """
    prompts = [text for text in ([prompt] if isinstance(prompt, str) else prompt) for _ in range(batch_size)]
    sampled = rollout(
        model,
        prompts,
        gen_len,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        prepend_bos=prepend_bos,
        stop_at_eos=stop_at_eos,
        generator=generator,
    )
    texts = [text + completion for text, completion in zip(prompts, sampled.completions, strict=True)]
    if verbose:
        print(*texts, sep="\n---\n")
    return sampled.ids, texts
