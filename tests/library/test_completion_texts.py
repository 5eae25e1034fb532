"""A completion's text is what its tokens add to the prompt's: for every kind of tokenizer, prompt and tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_lib.args import PromptArgs
from rlhf_lib.engine.switch import plain_formulas
from rlhf_lib.models import BridgedTransformer, encode_prompts, padding_id
from rlhf_lib.rewards import XML_REWARDS
from rlhf_lib.rollouts import Decoded, decode_texts, get_samples, rollout
from rlhf_lib.tasks import Gsm8kTask

SPECIALS = ("<pad>", "<s>", "</s>", "<|im_end|>", "<reasoning>", "</reasoning>", "<answer>", "</answer>")
WORDS = ("a", "b", "was", "little", "7", "é", ".", "\n")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def finished(own, tokens):
    """A tokenizer with its vocabulary, special tokens first; tags are special tokens too."""
    found = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    found.add_special_tokens({"additional_special_tokens": list(SPECIALS[3:])})
    assert len(found) == len(tokens)
    return found


def numbered(*tokens):
    return {token: i for i, token in enumerate([*SPECIALS, *tokens])}


def sentencepiece():
    """Words with a mark for the space before them; other characters by their bytes; one space less at the beginning."""
    vocab = numbered(*BYTES, "▁", *WORDS, *(f"▁{word}" for word in WORDS))
    own = Tokenizer(models.BPE(vocab=vocab, merges=[("▁", "a"), ("▁", "b"), ("▁", "7")], byte_fallback=True))
    own.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    own.decoder = decoders.Sequence(parts)
    return finished(own, vocab)


def metaspace():
    """Unigrams between marks for spaces."""
    tokens = ["▁", "W", "🙂", *WORDS, *(f"▁{word}" for word in WORDS)]
    own = Tokenizer(models.Unigram([*((special, 0.0) for special in SPECIALS), *((token, -1.0) for token in tokens)]))
    own.pre_tokenizer, own.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return finished(own, numbered(*tokens))


def byte_level():
    """Bytes, as GPT-2 writes them."""
    vocab = numbered(*sorted(pre_tokenizers.ByteLevel.alphabet()))
    own = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return finished(own, vocab)


def wordpiece():
    """Words and what follows within them, in small letters: a prompt's decoding is not its text."""
    vocab = numbered(*WORDS, *(f"##{word}" for word in WORDS), "[UNK]")
    own = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    own.normalizer, own.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    own.decoder = decoders.WordPiece()
    return finished(own, vocab)


TOKENIZERS = {make.__name__: make() for make in (sentencepiece, metaspace, byte_level, wordpiece)}
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def completions_of(tokenizer, prompts, rows, end_ids=(2,)):
    """What decode_texts makes of token rows after prompts, as a rollout leaves them."""
    ids, attention_mask = encode_prompts(tokenizer, prompts)
    longest = max(map(len, rows))
    tokens = torch.tensor([[*row, *[padding_id(tokenizer)] * (longest - len(row))] for row in rows], dtype=torch.long)
    mask = torch.tensor([[1.0] * len(row) + [0.0] * (longest - len(row)) for row in rows])
    return decode_texts(tokenizer, ids, attention_mask, Decoded(tokens, mask, mask, mask), list(end_ids))


@each_tokenizer
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_completion_is_what_decoding_the_whole_adds(name, data):
    tokenizer = TOKENIZERS[name]
    prompt = data.draw(st.text(st.sampled_from("ab 7é.\n🙂W"), min_size=1))
    added = data.draw(st.lists(st.integers(3, len(tokenizer) - 1), max_size=12))
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    before, whole = (tokenizer.decode(row, clean_up_tokenization_spaces=False) for row in (ids, ids + added))
    (text,) = completions_of(tokenizer, [prompt], [added])
    assert whole.endswith(text)
    if whole.startswith(before):
        assert before + text == whole


@each_tokenizer
def test_a_row_of_a_batch_is_as_it_is_alone(name):
    tokenizer = TOKENIZERS[name]
    prompts, rows = ["a b", "a", "a b a b 7 a b"], [[11, 12, 2], [], [13]]
    together = completions_of(tokenizer, prompts, rows)
    assert together == [completions_of(tokenizer, [prompt], [row])[0] for prompt, row in zip(prompts, rows, strict=True)]
    assert together[1] == ""


def test_the_space_before_a_word_stays():
    tokenizer = TOKENIZERS["sentencepiece"]
    a, little, was = (tokenizer.convert_tokens_to_ids(token) for token in ("▁a", "▁little", "was"))
    assert completions_of(tokenizer, ["a b", "a b"], [[a, little], [was, a]]) == [" a little", "was a"]
    assert tokenizer.decode([a, little]) == "a little"  # what is lost when it is decoded alone


def test_bytes_that_make_no_character_take_nothing_of_the_prompt_along():
    tokenizer = TOKENIZERS["sentencepiece"]
    first, second, smile = tokenizer.convert_tokens_to_ids("<0xC3>"), tokenizer.convert_tokens_to_ids("<0xA9>"), "a 🙂"
    assert completions_of(tokenizer, [smile, smile, smile], [[first], [first, second], [second]]) == ["�", "é", "�"]


def test_a_prompt_that_ends_within_a_character():
    """From token ids such a prompt can come; from a text it cannot. The character is the completion's."""
    tokenizer = TOKENIZERS["byte_level"]
    ids = torch.tensor([tokenizer("aé", add_special_tokens=False)["input_ids"]])
    decoded = Decoded(ids[:, -1:], torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    assert decode_texts(tokenizer, ids[:, :-1], torch.ones(1, 2, dtype=torch.long), decoded, []) == ["é"]


@each_tokenizer
def test_tags_that_are_special_tokens_stay_and_ends_go(name):
    tokenizer = TOKENIZERS[name]
    seven = tokenizer("7", add_special_tokens=False)["input_ids"]
    answer = [6, *seven, 7]
    begin, end, turn, pad = 1, 2, 3, 0
    plain, ended, padded, by_turn, going_on = completions_of(
        tokenizer,
        ["a"] * 5,
        [answer, [*answer, end], [begin, *answer, pad, end], [*answer, turn], [*answer, turn, *answer]],
        end_ids=[2, 3],
    )
    assert plain.replace(" ", "") == "<answer>7</answer>"
    assert ended == padded == by_turn == plain
    assert going_on.count("<|im_end|>") == 1


def test_an_end_that_is_an_ordinary_token_goes_once():
    tokenizer = TOKENIZERS["byte_level"]
    stop = tokenizer(".", add_special_tokens=False)["input_ids"]
    assert completions_of(tokenizer, ["a", "a"], [[*stop, *stop], stop], end_ids=stop) == [".", ""]


@each_tokenizer
def test_an_answer_tokenised_again_is_what_was_sampled(name, gsm8k_dir):
    """The space that SentencePiece puts before a text is no part of the answer, and comes back with it."""
    tokenizer = TOKENIZERS[name]
    task = Gsm8kTask(PromptArgs(task="gsm8k", data=str(gsm8k_dir)), tokenizer)
    for answer in ("a b 7", "7"):
        tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        (sampled,) = completions_of(tokenizer, ["a 7"], [tokens])
        assert task.cut(sampled) == answer
        assert tokenizer(task.cut(sampled), add_special_tokens=False)["input_ids"] == tokens
    assert task.cut("  a") == ("  a" if name == "byte_level" else " a")


# With models


def test_rewards_read_tags_that_are_special_tokens(model_dirs, tmp_path, tokenizer, monkeypatch):
    """A model that writes the format by special tokens earns what the format pays."""
    import copy
    import shutil

    from rlhf_lib import rollouts

    tagged = copy.deepcopy(tokenizer)
    tagged.add_special_tokens({"additional_special_tokens": ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]})
    directory = shutil.copytree(model_dirs["llama"], tmp_path / "llama")
    tagged.save_pretrained(directory)
    model = BridgedTransformer(directory, device="cpu")
    written = "<reasoning>\n3+4=7\n</reasoning>\n<answer>\n7\n</answer>\n"
    ids = [*tagged(written, add_special_tokens=False)["input_ids"], tagged.eos_token_id]
    script = iter(ids)
    monkeypatch.setattr(rollouts.Decoder, "__call__", lambda self, new: torch.eye(512)[[next(script)]] * 100)
    with plain_formulas():
        completions = rollout(model, ["Anna has 3"], len(ids), temperature=0.0).completions
    assert completions == [written]
    assert sum(fn(["Anna has 3"], completions, answer=["7"])[0] for fn in XML_REWARDS) == 4.0


def test_a_real_sentencepiece_model(shared):
    """The space is there, in the completion and in the text; greedy sampling, so that the tokens are the model's."""
    model = BridgedTransformer(shared / "models" / "stories260K", device="cpu")
    ids, (text,) = get_samples(model, "Once upon a time there was", 1, gen_len=12, temperature=0.0)
    assert text.startswith("Once upon a time there was a little")
    assert text == model.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert rollout(model, ["Once upon a time there was"], 12, temperature=0.0).completions[0].startswith(" a little")


def test_a_beginning_that_a_text_brings_is_not_doubled(tokenizer):
    ids, mask = encode_prompts(tokenizer, ["<s>a", "a", "a b c"])
    assert [(row == tokenizer.bos_token_id).sum().item() for row in ids] == [1, 1, 1]
    assert (ids[0][mask[0].bool()] == ids[1][mask[1].bool()]).all()
