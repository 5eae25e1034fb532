"""Chat templates of every kind: nothing of a prompt is lost, faults are one sentence, and nothing runs for ever."""

import copy
import json
from dataclasses import replace

import pytest

from rlhf_lib.args import CompareArgs, EvalArgs, GrpoArgs, InputError, PromptArgs, SampleArgs, SftArgs, from_json, to_json
from rlhf_lib.cli import from_run, starting_values
from rlhf_lib.compare.runs import common_options
from rlhf_lib.models import encode_prompts
from rlhf_lib.recipes import parse
from rlhf_lib.tasks import Gsm8kTask, chat
from rlhf_lib.tasks.prompting import CHAT_SYSTEM, XML_SYSTEM, build_prompt

TURN = "[{{ m['role'] }}]{{ m['content'] }}[end]"
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
WITHOUT_SYSTEM = PLAIN.replace("in messages", "in messages if m['role'] != 'system'")
GIVEN = "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}{% endif %}"
SHOTS = [("one plus one?", "1+1=2\n#### 2"), ("two plus two?", "2+2=4\n#### 4")]
IN_A_TURN_OF_ITS_OWN = {
    "plain": PLAIN,
    "trimmed": PLAIN.replace("m['content']", "m['content'] | trim"),
    "a default of its own": "{% if messages[0]['role'] != 'system' %}[system]You are a helpful assistant.[end]{% endif %}"
    + PLAIN,
    "a beginning": "{{ bos_token }}" + PLAIN,
    "thinking": PLAIN + "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}",
}
IN_THE_USERS = {
    "left out": WITHOUT_SYSTEM,
    "refused": PLAIN.replace(TURN, "{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TURN),
    "at the end": WITHOUT_SYSTEM + GIVEN + "{{ s }}",
    "behind the last question": GIVEN + WITHOUT_SYSTEM.replace("[end]", "{% if loop.last %}{{ s }}{% endif %}[end]"),
    "cut": PLAIN.replace("m['content']", "(m['content'][:20] if m['role'] == 'system' else m['content'])"),
    "another in its place": WITHOUT_SYSTEM.replace("{% for", "[system]You are a helpful assistant.[end]{% for", 1),
}
BROKEN = {
    "raises": ("{{ raise_exception('never') }}", "never"),
    "syntax": ("{% for m in messages %}", "endfor"),
    "undefined": ("{{ messages[0].content.no.such }}", "no attribute"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "long range": ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    "loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
    "writes much": ("{{ 'a' * 3000000 }}", "3000000 characters"),
    "writes more than there is memory": ("{{ 'a' * 10 ** 15 }}", "MemoryError"),
    "writes nothing": ("", "leaves out part"),
    "forgets examples": ("{{ messages[0]['content'] }}{{ messages[-1]['content'] }}", "leaves out part"),
    "forgets the question": (PLAIN.replace("in messages", "in messages[:-1]"), "leaves out part"),
}


@pytest.fixture
def with_template(tokenizer):
    def make(template):
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        return own

    return make


def contents(prompt):
    """What stands between the markers of turns."""
    return [turn.split("]", 1)[1] for turn in prompt.split("[end]")[:-1]]


@pytest.mark.parametrize("style", ["chat", "xml"])
@pytest.mark.parametrize("shots", [[], SHOTS], ids=["zero-shot", "few-shot"])
@pytest.mark.parametrize("name", IN_A_TURN_OF_ITS_OWN)
def test_the_system_text_has_a_turn_of_its_own(name, shots, style, with_template):
    prompt = build_prompt("three?", shots, style, 1000, with_template(IN_A_TURN_OF_ITS_OWN[name]))
    said = [text for shot in shots for text in shot]
    assert contents(prompt)[: len(said) + 2] == [CHAT_SYSTEM if style == "chat" else XML_SYSTEM, *said, "three?"]
    assert "helpful" not in prompt


@pytest.mark.parametrize("style", ["chat", "xml"])
@pytest.mark.parametrize("name", IN_THE_USERS)
def test_a_system_text_that_is_lost_or_moved_goes_to_the_first_user_turn(name, style, with_template):
    system = CHAT_SYSTEM if style == "chat" else XML_SYSTEM
    prompt = build_prompt("three?", SHOTS, style, 1000, with_template(IN_THE_USERS[name]))
    assert contents(prompt.replace("[system]You are a helpful assistant.[end]", ""))[:5] == [
        f"{system}\n\n{SHOTS[0][0]}",
        SHOTS[0][1],
        *SHOTS[1],
        "three?",
    ]


def test_without_examples_a_system_text_in_the_users_turn_may_stay_there(with_template):
    """Mistral's way: the template puts it before the last question, which is the first one too."""
    template = GIVEN + WITHOUT_SYSTEM.replace("{{ m['content'] }}", "{% if loop.last %}{{ s }}|{% endif %}{{ m['content'] }}")
    assert contents(build_prompt("three?", [], "chat", 1000, with_template(template)))[0] == f"{CHAT_SYSTEM}|three?"
    few = contents(build_prompt("three?", SHOTS, "chat", 1000, with_template(template)))
    assert (few[0], few[-1]) == (f"{CHAT_SYSTEM}\n\n{SHOTS[0][0]}", "|three?")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_template_is_one_sentence(name, with_template, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    template, part = BROKEN[name]
    with pytest.raises(InputError) as caught:
        build_prompt("three?", SHOTS, "xml", 1000, with_template(template))
    assert part in str(caught.value)
    assert "use prompt_style plain" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_loops_is_stopped(with_template, monkeypatch):
    """The thread that renders ends, rather than taking a processor for ever."""
    import threading

    monkeypatch.setattr(chat, "SECONDS", 0.2)
    before = set(threading.enumerate())
    with pytest.raises(chat.EndlessTemplate):
        build_prompt("three?", [], "chat", 1000, with_template(BROKEN["loops"][0]))
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_one_beginning_of_sequence(with_template):
    tokenizer = with_template(IN_A_TURN_OF_ITS_OWN["a beginning"])
    ids, _ = encode_prompts(tokenizer, [build_prompt("three?", [], "chat", 1000, tokenizer)])
    assert ids[0].tolist().count(tokenizer.bos_token_id) == 1


# Arguments and system prompt


def test_template_arguments_reach_the_template(with_template):
    tokenizer = with_template(PLAIN + "{{ enable_thinking | default('unset') }} {{ date | default(0) }}")

    def end(*given):
        args = PromptArgs(prompt_style="chat", template_args=given)
        prompt = build_prompt("three?", [], "chat", 1000, tokenizer, arguments=args.template_arguments)
        return prompt.rpartition("[assistant]")[2]

    assert end() == "unset 0"
    assert end("enable_thinking=false") == "False 0"
    assert end("enable_thinking=False", "date=1 May") == "False 1 May"
    assert end('date="3"', "enable_thinking=[1, 2]") == "[1, 2] 3"
    assert end("date=a=b") == "unset a=b"


@pytest.mark.parametrize("name", ["enable_thinkin", "tokenize", "chat_template", "add_generation_prompt"])
def test_arguments_that_the_template_does_not_read(name, with_template):
    tokenizer = with_template(IN_A_TURN_OF_ITS_OWN["thinking"])
    with pytest.raises(InputError, match=f"template_args has {name}, which"):
        build_prompt("three?", [], "chat", 1000, tokenizer, arguments={name: True})


@pytest.mark.parametrize("given", ["enable_thinking", "=3", "a b=3", "1a=3", ""])
def test_arguments_are_names_with_values(given):
    with pytest.raises(InputError, match="must be NAME=VALUE"):
        PromptArgs(prompt_style="chat", template_args=(given,))


def test_a_system_prompt_of_ones_own(with_template, tokenizer):
    for style in ("chat", "xml"):
        prompt = build_prompt("three?", [], style, 1000, with_template(PLAIN), system="Be brief.")
        assert contents(prompt) == ["Be brief.", "three?"]
    assert build_prompt("three?", [], "xml", 1000, tokenizer, system="Be brief.").startswith("Be brief.\n\nQuestion: three?")
    assert build_prompt("three?", [], "xml", 1000, tokenizer, system="").startswith("Question: three?")
    own = with_template(IN_A_TURN_OF_ITS_OWN["a default of its own"])
    assert contents(build_prompt("three?", [], "chat", 1000, own, system="")) == ["You are a helpful assistant.", "three?"]


def test_neither_is_for_prompts_without_a_format(tokenizer):
    for given in ({"system_prompt": "Be brief."}, {"system_prompt": ""}, {"template_args": ("a=1",)}):
        for kind in (PromptArgs, SampleArgs, CompareArgs):
            with pytest.raises(InputError, match="add prompt_style chat or xml"):
                kind(**given)
    with pytest.raises(InputError, match="template_args a are for a chat template"):
        build_prompt("three?", [], "xml", 1000, tokenizer, arguments={"a": 1})


def test_a_task_says_what_its_arguments_say(gsm8k_dir, with_template):
    template = with_template(IN_A_TURN_OF_ITS_OWN["thinking"])
    told = {"prompt_style": "chat", "system_prompt": "Be brief.", "template_args": ("enable_thinking=false",)}
    args = PromptArgs(task="gsm8k", data=str(gsm8k_dir), few_shot=1, **told)
    task = Gsm8kTask(args, template)
    for prompts in (task.draw(2, 0, 0), task.worked(2), task.held_out(2)):
        for prompt in prompts.prompts:
            assert prompt.startswith("[system]Be brief.[end][user]")
            assert prompt.endswith("[assistant]<think>\n\n</think>\n\n")
    assert "<think>" not in Gsm8kTask(replace(args, template_args=()), template).held_out(1).prompts[0]


@pytest.mark.parametrize("kind", [GrpoArgs, SftArgs])
def test_a_run_keeps_them_and_eval_takes_them(kind, tmp_path):
    told = {"task": "gsm8k", "prompt_style": "xml", "system_prompt": "Be brief.", "template_args": ("a=1", "b=x y")}
    args = kind(**told)
    assert from_json(kind, to_json(args)) == args
    (tmp_path / "args.json").write_text(to_json(args))
    resumed = starting_values("grpo" if kind is GrpoArgs else "sft", ["--resume", "--output-dir", str(tmp_path)])
    assert resumed == args
    for command in (EvalArgs, SampleArgs):
        found = from_run(command, ["--run", str(tmp_path)])
        assert {name: getattr(found, name) for name in told} == told
        plain = from_run(command, ["--run", str(tmp_path), "--prompt-style", "plain"])
        assert (plain.system_prompt, plain.template_args) == (None, ())
    old = json.loads(to_json(args))
    del old["system_prompt"], old["template_args"]
    (tmp_path / "args.json").write_text(json.dumps(old))
    assert from_run(EvalArgs, ["--run", str(tmp_path)]).template_args == ()


def test_the_command_line_hands_them_on(gsm8k_dir, neo_dir, tmp_path, capsys, tokenizer):
    """Trained, resumed and evaluated with the same prompts."""
    import shutil

    from rlhf_lib.cli import main
    from rlhf_lib.runs.directory import read_json_lines

    directory = shutil.copytree(neo_dir, tmp_path / "neo")
    (directory / "chat_template.jinja").write_text(IN_A_TURN_OF_ITS_OWN["thinking"])
    words = ["--base-model", str(directory), "--device", "cpu", "--task", "gsm8k", "--data", str(gsm8k_dir), "--gen-len", "4"]
    words += ["--prompt-style", "chat", "--system-prompt", "Be brief.", "--template-args", "enable_thinking=false"]
    run = str(tmp_path / "run")
    small = ["--total-phases", "1", "--batch-size", "4", "--group-size", "2", "--num-minibatches", "1", "--eval-problems", "0"]
    small += ["--warmup-steps", "0", "--log-samples-every", "0", "--micro-batch-size", "None", "--few-shot", "0"]
    assert main(["train", "grpo", *words, *small, "--output-dir", run]) == 0
    prompts = [sample["prompt"] for sample in read_json_lines(tmp_path / "run" / "samples.jsonl")]
    assert prompts
    assert all(prompt.startswith("[system]Be brief.[end][user]Anna") for prompt in prompts)
    assert all(prompt.endswith("[assistant]<think>\n\n</think>\n\n") for prompt in prompts)
    assert main(["eval", "--run", run, "--device", "cpu", "--problems", "2", "--output-dir", str(tmp_path / "report")]) == 0
    asked = [row["prompt"] for row in read_json_lines(tmp_path / "report" / "problems.jsonl")]
    assert all(prompt.startswith("[system]Be brief.") and "</think>" in prompt for prompt in asked)
    capsys.readouterr()
    assert main(["train", "grpo", "--resume", "--output-dir", run, "--system-prompt", "Be long."]) == 2
    assert "system_prompt='Be long.' (was 'Be brief.')" in capsys.readouterr().err


def test_a_comparison_hands_them_on():
    args = CompareArgs(task="gsm8k", prompt_style="xml", system_prompt="--brief", template_args=("a=1", "b=x y"))
    words = common_options(args)
    assert parse(SftArgs, words, "rlhf train sft", SftArgs()).system_prompt == "--brief"
    assert parse(SftArgs, words, "rlhf train sft", SftArgs()).template_args == args.template_args
    assert not {"--template-args", "--system-prompt"} & set(common_options(CompareArgs()))
