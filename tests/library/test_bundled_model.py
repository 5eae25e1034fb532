"""The shipped weights are what their card says, leave the room that the course needs, and come from the shipped recipe."""

import json

import pytest
import torch

from rlhf_lib.args import PretrainArgs
from rlhf_lib.models.loading import BUNDLED
from rlhf_lib.trainers import card, pretrain

POCKET = BUNDLED["pocket"]


@pytest.fixture(scope="module")
def written():
    return json.loads((POCKET / "card.json").read_text())


@pytest.fixture(scope="module")
def measured(written):
    return card.measure(POCKET, written["problems"], device="cpu")


FIGURES = [f"{name}_{how}" for name in card.PROMPTS for how in ("greedy", "sampled")]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_accuracies_are_those_of_the_card(name, written, measured):
    """Equal where the card was made; another processor's rounding may turn 3 of the 500 problems."""
    assert measured[name]["value"] == pytest.approx(written[name]["value"], abs=0.006)


@pytest.mark.slow
def test_styles_are_those_of_the_card(written, measured):
    assert set(measured["styles"]) == set(written["styles"]) == {"reasoning", "bare", "sentence"}
    for style, figures in written["styles"].items():
        samples = figures["share"] * written["problems"]
        assert measured["styles"][style]["share"] == pytest.approx(figures["share"], abs=0.006)
        assert measured["styles"][style]["value"] * samples == pytest.approx(figures["value"] * samples, abs=2)


def test_there_is_room_and_it_can_be_reached(measured):
    assert measured["problems"] >= 500
    assert measured["zero_greedy"]["value"] <= 0.25
    assert measured["zero_sampled"]["value"] <= 0.25
    assert 0.05 <= measured["styles"]["reasoning"]["share"] <= 0.20
    assert measured["styles"]["reasoning"]["value"] >= 0.80
    assert measured["styles"]["bare"]["value"] <= 0.15
    assert 0.35 <= measured["reasoning_greedy"]["value"] <= 0.70
    assert 0.35 <= measured["reasoning_sampled"]["value"] <= 0.70
    assert measured["bare_greedy"]["value"] <= 0.15


def test_the_card_shows_its_figures(written):
    text = (POCKET / "README.md").read_text()
    for name in FIGURES:
        assert card.show(written[name]) in text


def test_size_and_format():
    files = {file.name for file in POCKET.iterdir()}
    assert "model.safetensors" in files
    assert not any(name.endswith((".bin", ".pt")) for name in files)
    assert sum(file.stat().st_size for file in POCKET.iterdir()) <= 8_000_000


def test_tokenizer(tokenizer):
    text = "Question: Anna has 12 apples.\nAnswer:\n<reasoning>\n12+7=19\n</reasoning>\n<answer>\n19\n</answer>\n"
    tokens = tokenizer.tokenize(text)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert [t for t in tokens if t.isdigit()] == list("12" + "12" + "7" + "19" + "19")
    assert all(tag in tokens for tag in pretrain.TAGS)
    assert len(tokenizer) <= 512
    made = pretrain.build_tokenizer()
    assert made.get_vocab() == tokenizer.get_vocab(), "the tokenizer is not the one that the recipe makes"


def test_prompt_and_answer_are_tokenised_apart_as_together(tokenizer):
    """Training tokenises segments, sampling continues a prompt: both must see the same tokens."""
    from rlhf_lib.tasks import pocket_text

    for problem in pocket_text.fixed_problems("train", 50):
        prompt, answer = pocket_text.prompt_text(problem.question), pocket_text.answer_text(problem, "reasoning")
        apart = tokenizer.tokenize(prompt) + tokenizer.tokenize(answer)
        assert apart == tokenizer.tokenize(prompt + answer)


def test_a_step_of_documents_is_reproducible_and_weighs_one(tokenizer):
    args = PretrainArgs(steps=2, batch_size=12)
    first, again = (list(pretrain.draw_steps(args, tokenizer)) for _ in range(2))
    for step, same in zip(first, again, strict=True):
        assert sum(weights.sum() for _, weights in step).item() == pytest.approx(1, abs=1e-4)
        assert all(torch.equal(a[0], b[0]) for a, b in zip(step, same, strict=True))
        assert sum(len(ids) for ids, _ in step) == 12


def test_no_held_out_program_is_in_the_pretraining_text():
    import itertools

    from rlhf_lib.tasks import pocket_text

    held_out = {p.program for split in ("test", "validation") for p in pocket_text.fixed_problems(split, 500)}
    stream = pocket_text.draw_problems("train", PretrainArgs().seed)
    assert not any(p.program in held_out for p in itertools.islice(stream, 20_000))


@pytest.mark.slow
def test_pretraining_runs_and_learns(tmp_path):
    """Thirty steps of a tiny model: the loss falls, and a directory that loads, with a card, is left."""
    args = PretrainArgs(steps=30, batch_size=12, width=32, layers=2, heads=2, device="cpu")
    directory = tmp_path / "m"
    seconds = pretrain.pretrain(args, directory)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = pretrain.build_tokenizer()
    micro_batches = next(pretrain.draw_steps(PretrainArgs(seed=9, batch_size=12), tokenizer))
    with torch.no_grad():
        loss = sum(pretrain.weighted_loss(model, *part) for part in micro_batches)
    assert loss < 0.8 * torch.tensor(float(len(tokenizer))).log()
    assert seconds > 0
