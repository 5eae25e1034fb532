"""A trained reward model as a reward function."""

from collections.abc import Callable
from typing import Any

from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.rewards.formats import text_of


def reward_model_reward(model: RewardModel) -> Callable[..., list[float]]:
    """TRL's kind of reward function: the model's score of each completion, of a verifier the chance that it is right.

    The model reads the column "question" where there is one, the question without worked examples, else the prompt.
    """

    def reward_model(prompts: list, completions: list, question: list[str] | None = None, **columns: Any) -> list[float]:
        asked = question if question is not None else [last_message(prompt) for prompt in prompts]
        texts = [text_of(completion) for completion in completions]
        scores = model.probability(asked, texts) if model.kind == "verifier" else model.score(asked, texts)
        return scores.tolist()

    return reward_model


def last_message(prompt: Any) -> str:
    """A prompt's text; of a conversation, its last message."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
