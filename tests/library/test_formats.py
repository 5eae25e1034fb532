"""The recipe's five rewards value for value, their hardened versions, and hostile completions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_lib.args import InputError
from rlhf_lib.rewards import REWARDS, XML_REWARDS, answers_match, choose_rewards, extract_answer, text_of
from rlhf_lib.rewards.answers import option_letter
from rlhf_lib.rewards.formats import count_tags
from rlhf_lib.rewards.shaping import length_aware_reward, reft_reward

GOOD = "<reasoning>\n3+4=7\n</reasoning>\n<answer>\n7\n</answer>\n"
TWO_LINES = "<reasoning>\n3+4=7\n7*1=7\n</reasoning>\n<answer>\n7\n</answer>\n"
BARE = "The answer is 7."
ONE_LINE = "<reasoning>3+4=7</reasoning><answer>7</answer> and that is it"
EMPTY = "<reasoning>\n\n</reasoning>\n<answer>\n\n</answer>\n"
GUESSES = "<reasoning>\nIt could be anything.\n</reasoning>\n<answer>\n7 or 8 or 9\n</answer>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # correctness, integer, strict, soft, tag count
        (GOOD, (2.0, 0.5, 0.5, 0.5, 0.5)),
        (TWO_LINES, (2.0, 0.5, 0.0, 0.5, 0.5)),
        (BARE, (0.0, 0.0, 0.0, 0.0, 0.0)),
        (ONE_LINE, (2.0, 0.5, 0.0, 0.5, 0.0)),
        (EMPTY, (0.0, 0.0, 0.5, 0.5, 0.5)),
        (GOOD + "more", (2.0, 0.5, 0.0, 0.5, 0.5 - 0.004 - 0.004)),
        (GOOD.replace("7\n</answer>", "$7.00\n</answer>"), (2.0, 0.0, 0.5, 0.5, 0.5)),
        (GOOD.removesuffix("\n"), (2.0, 0.5, 0.0, 0.5, 0.5 - 0.001 * (len(GOOD) - 1) + 0.001)),
    ],
)
@pytest.mark.parametrize("conversational", [False, True])
def test_five_rewards(text, expected, conversational):
    """In TRL's call form: keywords only, with columns that no function asked for, plain or conversational."""
    completion = [{"role": "assistant", "content": text}] if conversational else text
    given_by_trl = {"completion_ids": [[1, 2]], "trainer_state": None, "answer": ["7"], "question": ["?"]}
    got = tuple(fn(prompts=["?"], completions=[completion], **given_by_trl)[0] for fn in XML_REWARDS)
    assert got == pytest.approx(expected, abs=1e-9)


def test_tags_that_share_a_line_break():
    assert count_tags("<reasoning>\n</reasoning>\n<answer>\n</answer>\n") == 0.5
    assert count_tags("<reasoning>\n" * 2) == 0.0


def test_multiline_and_hardened():
    texts = [
        GOOD,
        TWO_LINES,
        BARE,
        ONE_LINE,
        EMPTY,
        GUESSES,
        GOOD * 2,
        TWO_LINES.replace("7\n</answer>", "7 apples\n</answer>"),
    ]
    arguments = {"prompts": ["?"] * len(texts), "completions": texts, "answer": ["7"] * len(texts)}
    assert REWARDS["multiline_format"](**arguments) == [0.5, 0.5, 0, 0, 0.5, 0.5, 0.5, 0.5]
    assert REWARDS["hardened_format"](**arguments) == [0.0, 0.5, 0, 0, 0, 0, 0, 0.5]
    assert REWARDS["hardened_correctness"](**arguments) == [0.0, 2.0, 0, 0, 0, 0, 0, 2.0]


def test_reft():
    texts = ["#### 7", "#### 8", "no idea", ""]
    assert reft_reward(["?"] * 4, texts, answer=["7"] * 4) == [1.0, 0.1, 0.0, 0.0]
    assert reft_reward(["?"] * 3, ["(c)", "The answer is (b)", "I have 5"], answer=["c"] * 3) == [1.0, 0.1, 0.0]


def test_a_list_mark_is_no_minus():
    assert answers_match("- 18 eggs", "18")
    assert answers_match("so 20 - 2 = 18", "18")
    assert answers_match("-18", "-18")


def test_length_aware():
    """Two prompts: in the first the shortest right answer earns 0.5 and the longest -0.5, and short wrong ones gain nothing."""
    texts = ["7", "x" * 5 + " 7", "x" * 9 + " 7", "8", "1 7", "2 7"]
    rewards = length_aware_reward(["a"] * 4 + ["b"] * 2, texts, answer=["7"] * 6)
    lengths = [1, 7, 11, 1]
    assert rewards[:3] == pytest.approx([0.5 - (n - 1) / 10 for n in lengths[:3]])
    assert rewards[3:] == [0.0, 0.0, 0.0]
    ids = [[0] * n for n in (9, 1, 5, 9, 2, 2)]
    assert length_aware_reward(["a"] * 4 + ["b"] * 2, texts, answer=["7"] * 6, completion_ids=ids)[:3] == [-0.5, 0.5, 0.0]


def test_language_consistency():
    rewards = REWARDS["language_consistency"](["?"] * 4, ["naïve 3+4", "日本 ab", "123", ""])
    assert rewards == [1.0, 0.5, 0.0, 0.0]


def test_choosing_rewards():
    functions, weights = choose_rewards(("correctness", "soft_format=0.25"))
    assert [fn.__name__ for fn in functions] == ["correctness_reward", "soft_format_reward"]
    assert weights == (1.0, 0.25)
    with pytest.raises(InputError, match="is unknown; use"):
        choose_rewards(("nice",))


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("<answer>c</answer>", "c"), ("The answer is (C) 27", "c"), ("so (a), no: option b", "b"), ("#### d", "d"),
        (r"\boxed{E}", "e"), (r"\boxed{\text{C}}", "c"), ("The answer is **C**", "c"), ("The answer is C\nDone.", "c"),
        ("The answer is B because", "b"), ("The answer is a train", None), ("The answer is egg", None), ("a cat sat", None),
        ("The answer is 27", None), ("the answer is c ) 27.5", "c"),
    ],
)  # fmt: skip
def test_option_letters(completion, letter):
    assert extract_answer(completion, "letter") == letter
    if letter:
        assert answers_match(completion, letter)
        assert answers_match(completion, f"({letter.upper()})")
        assert not answers_match(completion, "b" if letter != "b" else "a")


def test_a_letter_is_not_a_number():
    assert option_letter("27") is None
    assert not answers_match("<answer>3</answer>", "c")
    assert not answers_match("<answer>c</answer>", "3")


HOSTILE = [
    "", " ", "<answer>", "</answer>", "</answer><answer>", "<answer></answer>", "<answer>" * 1000, "####", "#### \n 5",
    "9" * 10**6, "1/" * 10**4, "1/0", "10^9", "1e999999999", "1e-999999999", "0x10", "__import__('os').system('true')",
    "٣", "½", "²", "１８", "−3", "\\boxed{" * 1000, "\\boxed{\\boxed{3}", "NaN", "inf", "-", "$", ",,,", "1,00,0",
    "\x00", "\ud800",
    "the answer is " * 1000, "(" * 10**5, "3" + "," * 10**5, "<answer>7</answer> <answer>8",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_text_is_answered_and_never_runs(text):
    for convention in ("any", "xml", "hashes", "boxed", "said", "last", "letter"):
        assert answers_match(text, "7", convention) in (True, False)
    for name, reward in REWARDS.items():
        (value,) = reward(prompts=["?"], completions=[text], answer=["7"])
        assert isinstance(value, float), name


def test_the_minus_sign_of_print():
    assert answers_match("#### −3", "-3")


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_no_reward_raises(text):
    for reward in REWARDS.values():
        assert len(reward(prompts=["?"] * 2, completions=[text, GOOD], answer=["7", text])) == 2


def test_text_of_a_conversation():
    messages = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}, {"role": "assistant", "content": "c"}]
    assert text_of(messages) == "ac"


@pytest.mark.parametrize("conversational", [False, True])
def test_trl_takes_them_unchanged(conversational, tmp_path):
    trl = pytest.importorskip("trl", reason="needs trl (pip install trl)")
    from datasets import Dataset
    from transformers import AutoTokenizer

    from rlhf_lib.models.loading import BUNDLED
    from rlhf_lib.tasks import PocketTask

    drawn = PocketTask().draw(4, 0, 0)
    prompts = [[{"role": "user", "content": prompt}] for prompt in drawn.prompts] if conversational else drawn.prompts
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED["pocket"])
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    trainer = trl.GRPOTrainer(
        model=str(BUNDLED["pocket"]),
        reward_funcs=list(REWARDS.values()),
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=40,
            max_steps=1,
            report_to=[],
            use_cpu=True,
            logging_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts, "answer": drawn.columns["answer"]}),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {f"rewards/{reward.__name__}/mean" for reward in REWARDS.values()} <= set(logged)
