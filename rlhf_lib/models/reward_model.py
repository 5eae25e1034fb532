"""A reward model: one score for a question with a completion, from an encoder or a causal model with a scalar head."""

import os
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_lib.args import InputError, require
from rlhf_lib.finite import require_finite
from rlhf_lib.models import checkpoint, loading
from rlhf_lib.models.lengths import last_tokens
from rlhf_lib.preferences import pool_last_real_token

DEFAULT = "distilroberta-base"


def check_base(name_or_path: str | os.PathLike, what: str = "reward model") -> None:
    """Raise where no model of that name can be read, from its configuration alone: before anything is sampled for it.

    Raises:
        InputError: no such model, or a configuration that is none.
    """
    with loading.quiet_transformers():
        checkpoint.read_config(loading.resolve_name(name_or_path, what), f"{what} {str(name_or_path)!r}")


def read_classifier(name: str, what: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, bool]:
    """A sequence classifier with one output, its tokenizer, and whether the checkpoint has its head.

    A model of another kind may get a new head, with random weights; one that was saved as a classifier has its own.
    """
    with loading.quiet_transformers():
        config = checkpoint.read_config(name, what, num_labels=1)
        longest = getattr(config, "reward_longest", None)
        require(
            longest is None or (type(longest) is int and longest > 0),
            f"{what}: config.json has reward_longest={longest!r}, which must be a whole number above 0; get the model again",
        )
        is_classifier = any("SequenceClassification" in str(named) for named in config.architectures or [])
        model, new = checkpoint.read_model(
            AutoModelForSequenceClassification, name, what, config, new_head=not is_classifier, dtype=torch.float32
        )
        require_finite(model.named_parameters(), f"{what}: its checkpoint", "get the model again")
        tokenizer = checkpoint.read_tokenizer(name, what)
    checkpoint.require_fitting_tokens(tokenizer, model.get_input_embeddings().weight.shape[0], what)
    return model, tokenizer, not new


class RewardModel(nn.Module):
    """A Hugging Face sequence classifier with one output, read as a score.

    An encoder (RoBERTa) reads question and completion as a pair and scores with its own head. A causal model (Llama, GPT-Neo)
    reads them in a row, ended by the end-of-sequence token, and is scored at its last real token by the attention mask;
    transformers would look for padding ids instead, which GPT-2 shares with the end of sequence.

    Args:
        name_or_path: "pocket", a name on the hub, or a local directory; without a trained head it begins with a random one.
        device: auto, cpu, cuda, cuda:N or mps.
        longest: most tokens, unless the model was saved with a limit; longer texts lose the beginning of the question.

    Raises:
        InputError: no such model, one that has no classifier in transformers, or one whose weights are not all there.
    """

    def __init__(self, name_or_path: str | os.PathLike = DEFAULT, *, device: str = "auto", longest: int = 512):
        super().__init__()
        where, name = loading.resolve_device(device), loading.resolve_name(name_or_path, "reward model")
        self.model, self.tokenizer, self.is_trained = read_classifier(name, f"reward model {str(name_or_path)!r}")
        self.model.to(where)
        self.is_causal = hasattr(self.model, "score")
        positions = getattr(self.model.config, "max_position_embeddings", longest)
        saved = getattr(self.model.config, "reward_longest", None)
        self.longest = min(longest if saved is None else saved, positions - 2)  # RoBERTa's positions begin at 2
        self.model.config.reward_longest = self.longest
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def kind(self) -> str:
        """What it was trained as: bradley-terry, regression or verifier."""
        return getattr(self.model.config, "reward_kind", "bradley-terry")

    def forward(self, ids: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"]) -> Float[Tensor, " batch"]:
        """One score a row, in float32; padding is on the right and masked.

        A causal model's `score` head turns the trunk's last hidden state at every position into a number, of which the one at
        the last real token counts; an encoder's classifier gives the number itself.
        """
        if self.is_causal:
            hidden = self.model.base_model(input_ids=ids, attention_mask=attention_mask).last_hidden_state
            values = self.model.score(hidden).squeeze(-1).float()
            return pool_last_real_token(values, attention_mask)
        return self.model(input_ids=ids, attention_mask=attention_mask).logits.squeeze(-1).float()

    def encode(self, questions: list[str], completions: list[str]) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
        """Token ids and attention mask of each question with its completion, padded on the right."""
        rows = [self.encode_one(*pair) for pair in zip(questions, completions, strict=True)]
        if not rows:
            raise InputError("there is no text to score; give at least one question with its completion")
        pad, longest = loading.padding_id(self.tokenizer), max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return ids.to(self.device), mask.to(self.device)

    def encode_one(self, question: str, completion: str) -> list[int]:
        """Tokens of one text; of a long one the question's beginning is cut, then the completion's."""
        tokenizer = self.tokenizer
        if self.is_causal:
            front, middle, end = [tokenizer.bos_token_id], [], [tokenizer.eos_token_id]
        else:
            front, middle, end = [tokenizer.cls_token_id], [tokenizer.sep_token_id], [tokenizer.sep_token_id]
        front, middle, end = ([i for i in part if i is not None] for part in (front, middle, end))
        room = self.longest - len(front) - len(middle) - len(end)
        told = last_tokens(tokenizer, completion, room)
        asked = last_tokens(tokenizer, question, room - len(told)) if room > len(told) else []
        return front + asked + middle + told + end

    @torch.no_grad()
    def score(self, questions: list[str], completions: list[str], batch_size: int = 64) -> Float[Tensor, " batch"]:
        """Scores, without gradients, on the CPU; texts of similar length go through the model together."""
        order = sorted(range(len(questions)), key=lambda i: len(questions[i]) + len(completions[i]))
        scores = torch.zeros(len(questions))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            part = self.forward(*self.encode([questions[i] for i in rows], [completions[i] for i in rows]))
            scores[rows] = part.cpu()
        return scores

    def probability(self, questions: list[str], completions: list[str]) -> Float[Tensor, " batch"]:
        """Sigmoid of the scores: of a verifier, the chance that the completion is right."""
        return self.score(questions, completions).sigmoid()

    def save_pretrained(self, directory: str | os.PathLike) -> Path:
        """Write a Hugging Face directory; its configuration's reward_kind says what the model was trained as.

        Raises:
            InputError: weights that are NaN or infinite; nothing is written.
        """
        remedy = "it is not saved; train with a lower learning rate"
        require_finite(self.model.named_parameters(), "the reward model to save", remedy)
        with loading.quiet_transformers():
            self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        return Path(directory)

    @classmethod
    def trained(cls, name_or_path: str | os.PathLike, *, device: str = "auto") -> "RewardModel":
        """A reward model that has been trained: what may judge. An error where the head would be a random one."""
        model = cls(name_or_path, device=device)
        if not model.is_trained:
            raise InputError(
                f"reward model={str(name_or_path)!r} has no trained head, so its scores mean nothing; train one with `rlhf "
                "train reward-model` and give the run's model/"
            )
        return model

    # what a Run needs of a model

    is_sharded = False
    """Its weights are whole on every process."""

    def trainable_state(self) -> dict[str, Any]:
        """All tensors that training changes."""
        return self.model.state_dict()

    def load_trainable_state(self, state: dict[str, Any]) -> None:
        """Put back what `trainable_state` gave."""
        self.model.load_state_dict(state)
