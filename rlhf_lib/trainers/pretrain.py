"""Make the bundled model from nothing: tokenizer, documents, a small Llama, one training loop, a saved directory.

The recipe's two ideas. A fifth of the documents are bare equations, because stories alone leave the arithmetic unlearned.
And most stories are answered with reasoning at first, few afterwards, so that the finished model *can* reason well but seldom
does: the room that reinforcement learning is to discover.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_lib.args import PretrainArgs
from rlhf_lib.files import whole_files
from rlhf_lib.finite import require_finite
from rlhf_lib.models.loading import quiet_transformers, resolve_device
from rlhf_lib.runs import RunDirectory
from rlhf_lib.tasks import pocket_text

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")


def build_tokenizer(vocab_size: int = 512, seed: int = 0) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, learned on generated text; the four tags are whole tokens."""
    rng = random.Random(seed)
    problems = pocket_text.draw_problems("train", seed)
    documents = [pocket_text.draw_document(rng, problems, 0.5, 0.3, 0.0) for _ in range(4000)]
    text = ("".join(segment.text for segment in document) for document in documents)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tags = [AddedToken(tag, normalized=False) for tag in TAGS]
    tokenizer.add_tokens(tags)  # now, so that no merge crosses a tag; again after training, which forgets them
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TAGS),
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_tokens(tags)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left"
    )


def build_model(args: PretrainArgs, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama of the size that `args` asks for."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        intermediate_size=3 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        max_position_embeddings=args.context,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, documents: list[list[pocket_text.Segment]]
) -> list[tuple[list[int], list[float]]]:
    """Token ids and loss weights of each document; segments are tokenised apart, as prompts and answers are later."""
    texts = [segment.text for document in documents for segment in document]
    encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    rows = []
    for document in documents:
        ids, weights = [tokenizer.bos_token_id], [0.0]
        for segment in document:
            piece = next(encoded) + [tokenizer.eos_token_id] * segment.ends
            ids += piece
            weights += [segment.loss_weight] * len(piece)
        rows.append((ids, weights))
    return rows


def collate(rows: list[tuple[list[int], list[float]]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids [batch seq] and loss weights [batch seq]; padding weighs nothing."""
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row, _ in rows])
    weights = torch.tensor([row + [0.0] * (longest - len(row)) for _, row in rows])
    return ids, weights


def draw_steps(args: PretrainArgs, tokenizer: PreTrainedTokenizerFast) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """The documents of each step, as micro-batches of similar length so that little is padding; weights sum to 1 a step."""
    rng = random.Random(args.seed)
    problems = pocket_text.draw_problems("train", args.seed)
    for step in range(args.steps):
        late = step >= args.early_part * args.steps
        share = args.late_reasoning_share if late else args.early_reasoning_share
        documents = [
            pocket_text.draw_document(rng, problems, share, args.equation_share, args.question_weight)
            for _ in range(args.batch_size)
        ]
        rows = sorted(encode_documents(tokenizer, documents), key=lambda row: len(row[0]))
        total = sum(sum(weights) for _, weights in rows)
        size = -(-args.batch_size // args.micro_batches)
        parts = [collate(rows[start : start + size], tokenizer.pad_token_id) for start in range(0, len(rows), size)]
        yield [(ids, weights / total) for ids, weights in parts]


def weighted_loss(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> Tensor:
    """Next-token cross-entropy in nats, summed with the weights of the predicted tokens."""
    logits = model(ids[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def pretrain(args: PretrainArgs, directory: Path) -> float:
    """Train from nothing and save a Hugging Face directory; returns the seconds that training took.

    Raises:
        InputError: the directory holds a run already, or weights have become NaN or infinite, in which case nothing is saved.
    """
    run = RunDirectory(directory, args)
    torch.manual_seed(args.seed)
    tokenizer = build_tokenizer(seed=args.seed)
    model = build_model(args, tokenizer).to(resolve_device(args.device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=args.weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)

    started = time.perf_counter()
    progress = tqdm(draw_steps(args, tokenizer), total=args.steps, desc="pretrain", mininterval=5)
    for step, micro_batches in enumerate(progress):
        loss = 0.0
        for ids, weights in micro_batches:
            part = weighted_loss(model, ids.to(model.device), weights.to(model.device))
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        if step % 10 == 0:
            progress.set_postfix(loss=f"{loss:.3f}")
    seconds = time.perf_counter() - started
    require_finite(model.named_parameters(), "the trained model", "nothing is saved; train with a lower lr")
    with whole_files(directory) as new, quiet_transformers():
        model.save_pretrained(new)
        tokenizer.save_pretrained(new)
    run.write_args()
    return seconds
