"""The command line. Arguments come straight from the dataclasses of `args`; nothing heavy is imported until a command runs."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf_lib import args as arguments
from rlhf_lib.args import InputError, require
from rlhf_lib.args.code import fault_in_file, from_word
from rlhf_lib.args.command_line import is_given, options_in, value_given, without
from rlhf_lib.args.weights import load_code
from rlhf_lib.files import CannotWrite, whole_files, writing_in
from rlhf_lib.machine import fault_of_machine
from rlhf_lib.recipes import FAMILY_RECIPE, family_recipe, parse, recipe_file, task_recipe
from rlhf_lib.signals import ending_by
from rlhf_lib.terminal import visible

TRAINABLE = {
    "sft": arguments.SftArgs,
    "reward-model": arguments.RewardModelArgs,
    "ppo": arguments.RLHFArgs,
    "ppo-lora": arguments.LoraArgs,
    "grpo": arguments.GrpoArgs,
    "reft": arguments.ReftArgs,
    **arguments.FAMILY,
}
HELP = """usage: rlhf COMMAND [OPTIONS]     (every command answers --help)

Train a language model by reinforcement learning, on a laptop or a GPU:
  rlhf train grpo --task pocket      GRPO on word problems: watch reasoning emerge, 1 minute
  rlhf train ppo-lora --task pocket  PPO with a value head, on adapters
  rlhf train ppo --task pocket       PPO with a value head, every weight trained
  rlhf train reft --task pocket      ReFT: warm-up on worked solutions, then PPO
  rlhf train grpo                    the classic first exercise: earn a reward for full stops

Train it on examples, or train what judges it:
  rlhf train sft --task pocket            worked solutions; with --self-samples 8 also its own right ones
  rlhf train self-training --task pocket  its own right completions, sampled anew in every phase
  rlhf train reward-model --task pocket   comparisons, numbers, or right and wrong (--kind)

Look at the result:
  rlhf sample --run runs/NAME        completions before and after
  rlhf eval --run runs/NAME          accuracy on held-out problems; --samples 8: pass@k, majority, reranking
  rlhf compare --task pocket         few-shot, SFT, self-training, PPO, GRPO, ReFT under one budget, 30 minutes
  rlhf merge --adapter DIR --output-dir DIR    an adapter and its base model as one model

Tasks: pocket (bundled), gsm8k, svamp, mathqa (from Hugging Face's hub, or --data FILE_OR_FOLDER), char-count.

Learn it: the course in chapters/, with exercises and checkers:
  rlhf course                        status, check, hint, solution, reset

Make the bundled model anew:
  rlhf pretrain                      tokenizer, text, training and model card
"""


def starting_values(algorithm: str, rest: list[str]) -> Any:
    """The defaults that flags then override: --resume takes the run's own, --recipe that recipe's or file's, --task its own
    recipe's.
    """
    kind = TRAINABLE[algorithm]
    output, recipe, task = value_given(rest, "output_dir"), value_given(rest, "recipe"), value_given(rest, "task")
    if value_given(rest, "comparisons") is not None and not is_given(rest, "resume") and recipe is None:
        return kind()  # a task's recipe is for its own samples
    if is_given(rest, "resume"):
        require(recipe is None, "--resume goes on with the run's own arguments; leave out --recipe")
        if output is None:
            raise InputError("--resume continues the run in --output-dir; add --output-dir RUN_DIRECTORY")
        file = Path(output) / "args.json"
        if not file.is_file():
            raise InputError(f"output_dir={output!r} holds no run to resume; leave out --resume to start one")
    elif recipe is not None:
        file = recipe_file(recipe, algorithm)
    else:
        name = task or arguments.default_of(kind, "task") or "char-count"
        file = task_recipe(algorithm, name)
        if file is None:
            return kind(**({"task": from_word(name), **with_room(task)} if task else {}))
    return family_recipe(kind, file) if file.stem.startswith(FAMILY_RECIPE) else arguments.from_file(kind, file)


def parse_and_load(kind: type, words: list[str], prog: str, default: Any) -> Any:
    """Arguments from words; files of code that they name are imported now, and not once the model is there."""
    args = parse(kind, words, prog, default)
    load_code(args)
    return args


def train(rest: list[str]) -> int:
    """rlhf train ALGORITHM ..."""
    if not rest or rest[0] not in TRAINABLE:
        listed = "\n".join(f"  {name:20} {kind.__doc__.splitlines()[0]}" for name, kind in TRAINABLE.items())
        print(
            f"usage: rlhf train ALGORITHM [OPTIONS]\n\nAlgorithms:\n{listed}\n\n"
            "rlhf train grpo --task pocket --help shows all options "
            "and the values that task starts from; --recipe NAME starts from another recipe, --recipe FILE from a run's "
            "args.json."
        )
        return 0 if rest and rest[0] in ("-h", "--help") else 2
    algorithm, rest = rest[0], rest[1:]
    default = starting_values(algorithm, rest)
    args = parse_and_load(TRAINABLE[algorithm], without(rest, "recipe"), f"rlhf train {algorithm}", default)

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        args = as_one_of_several(args)

    from rlhf_lib.trainers import TRAINERS

    TRAINERS[algorithm](args).train()
    return 0


def as_one_of_several(args: Any) -> Any:
    """The arguments of one of torchrun's processes, which has joined the others: the device is its own."""
    from rlhf_lib import parallel

    return replace(args, device=parallel.start(args.device))


def load_model(args: arguments.ModelArgs) -> tuple[Any, str]:
    """The model that --run, or --base-model with --adapter, names, and what to call it: of a run, from which phase it is."""
    from rlhf_lib.models import BridgedTransformer, TransformerWithLora
    from rlhf_lib.runs import policy_of_run

    options = {"device": args.device, "dtype": args.dtype}
    if args.adapter is not None:
        base = None if args.base_model == arguments.default_of(args, "base_model") else args.base_model
        return TransformerWithLora.from_adapter(args.adapter, base, **options), args.adapter
    if args.run is None:
        return BridgedTransformer(args.base_model, **options), args.base_model
    return policy_of_run(args.run, args.which, **options)


def with_room(task: str | None) -> dict[str, int]:
    """The gen_len that a task's answers need, where it is known."""
    return {"gen_len": arguments.GEN_LEN[task]} if task in arguments.GEN_LEN else {}


def from_run(kind: type[arguments.ModelArgs], rest: list[str]) -> Any:
    """The defaults of a command that looks at a model: with --run DIRECTORY its own prompts and lengths."""
    run, task = value_given(rest, "run"), value_given(rest, "task")
    file = Path(run or "") / "args.json"
    if run is None or not file.is_file():
        return kind(**with_room(task))
    told = arguments.read_object(file)
    names = ("task", "data", "prompt_style", "system_prompt", "template_args", "few_shot", "gen_len", "dtype", "prepend_bos")
    names += ("skip_bad_rows",) if told.get("prompts") is not None else ("skip_bad_rows", "columns")  # those of prompts differ
    known = {name: told[name] for name in names if told.get(name) is not None}
    if value_given(rest, "prompt_style") == "plain":  # which has no place for them
        known |= {"system_prompt": None, "template_args": ()}
    if known.get("task") in (None, "char-count"):
        known["task"] = "pocket"
    try:
        return kind(**known)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def held_out_of(task: Any, *asked: Any) -> Any:
    """A task's held-out prompts; an error where it has none."""
    prompts = task.held_out(*asked)
    if not prompts:
        raise InputError(f"task={task.name} has no right answers and no held-out problems; use --task pocket, gsm8k or another")
    return prompts


def sample(rest: list[str]) -> int:
    """rlhf sample ..."""
    args = parse_and_load(arguments.SampleArgs, rest, "rlhf sample", from_run(arguments.SampleArgs, rest))

    import torch

    from rlhf_lib.models import BridgedTransformer, TransformerWithLora
    from rlhf_lib.rollouts import rollout
    from rlhf_lib.tasks import task_of

    model, told = load_model(args)
    print(visible(told))
    if args.prompt is not None:
        prompts = [args.prompt] * args.count
    else:
        prompts = held_out_of(task_of(args, model, args.gen_len), args.count, args.few_shot).prompts
    shown = {"trained": model} if args.run or args.adapter else {"model": model}
    if isinstance(model, TransformerWithLora):
        shown = {"base": BridgedTransformer(model.base.name, device=args.device, dtype=args.dtype), **shown}
    texts, sampling = {}, {"temperature": args.temperature, "prepend_bos": args.prepend_bos}
    for name, which in shown.items():
        generator = torch.Generator(which.device).manual_seed(args.seed)
        texts[name] = rollout(which, prompts, args.gen_len, generator=generator, **sampling).completions
    for i, prompt in enumerate(prompts):
        print(visible(f"\n=== {prompt.rstrip()}"))
        for name, completions in texts.items():
            print(visible(f"--- {name}\n{completions[i].rstrip()}"))
    return 0


def evaluate(rest: list[str]) -> int:
    """rlhf eval ..."""
    args = parse_and_load(arguments.EvalArgs, rest, "rlhf eval", from_run(arguments.EvalArgs, rest))

    with writing_in(args.output_dir) if args.output_dir else nullcontext():
        return judge(args)


def judge(args: arguments.EvalArgs) -> int:
    """What `rlhf eval` measures, prints and writes."""
    from dataclasses import asdict

    from rlhf_lib.evaluate import evaluate, evaluate_samples
    from rlhf_lib.evaluate.report import problem_rows, results_table, write_report
    from rlhf_lib.models.reward_model import RewardModel
    from rlhf_lib.tasks import WordProblemTask, task_of

    model, name = load_model(args)
    task = task_of(args, model, args.gen_len)
    prompts = held_out_of(task, args.problems, args.few_shot, args.style if args.few_shot else None)
    options = {"gen_len": args.gen_len, "batch_size": args.batch_size, "seed": args.seed, "prepend_bos": args.prepend_bos}
    greedy = evaluate(model, task, prompts, temperature=0.0, **options)
    table, sampled = greedy.table(), None
    if args.samples:
        verifier = None if args.reward_model is None else RewardModel.trained(args.reward_model, device=args.device)
        temperature = {"temperature": args.temperature, "reward_model": verifier}
        sampled = evaluate_samples(model, task, prompts, args.samples, **temperature, **options)
        table += sampled.table()
    title = f"{name}, on {len(prompts)} held-out problems of {args.task}"
    title += f" (prompt style {args.prompt_style}, few-shot {args.few_shot}, gen_len {args.gen_len})"
    print(visible(title) + f"\n\n{results_table(table)}\n")
    for style, (share, accuracy) in greedy.by_style().items():
        print(f"  {style:10} {share:6.1%} of greedy answers, accuracy {accuracy}")
    if isinstance(task, WordProblemTask) and args.few_shot:
        fitted = task.examples_in(prompts)
        mean = sum(fitted) / len(fitted)
        print(
            f"Worked examples that the context had room for: {min(fitted)} to {max(fitted)} of {args.few_shot}, mean {mean:.1f}"
        )
    if greedy.cut_share > 0.2:
        print(f"Warning: {greedy.cut_share:.0%} of the greedy answers were cut at gen_len={args.gen_len}; raise --gen-len")
    if args.output_dir:
        written = write_report(args.output_dir, title, table, problem_rows(greedy, sampled), {"arguments": asdict(args)})
        print(visible(f"Files: {written}/ (results.json, table.md, problems.jsonl, samples.html)"))
    return 0


def merge(rest: list[str]) -> int:
    """rlhf merge ..."""
    args = parse(arguments.MergeArgs, rest, "rlhf merge")

    from rlhf_lib.models import TransformerWithLora

    with writing_in(args.output_dir) as directory:
        if (directory / "adapter_config.json").exists():
            raise InputError(
                f"output_dir={args.output_dir!r} holds an adapter, which a merged model cannot lie beside; choose another"
            )
        model = TransformerWithLora.from_adapter(args.adapter, args.base_model, device=args.device, dtype=args.dtype)
        with whole_files(directory) as new:
            model.save_merged(new)
    print(visible(f"merged model: {args.output_dir}"))
    return 0


def compare(rest: list[str]) -> int:
    """rlhf compare ..."""
    methods = [name for option in options_in(rest) if option.name == "methods" for name in ",".join(option.values).split(",")]
    if methods:
        rest = [*without(rest, "methods"), "--methods", *methods]
    args = parse_and_load(
        arguments.CompareArgs, rest, "rlhf compare", arguments.CompareArgs(**with_room(value_given(rest, "task")))
    )

    from rlhf_lib.compare import compare as run_all

    print(visible(run_all(args)))
    return 0


def pretrain(rest: list[str]) -> int:
    """rlhf pretrain ..."""
    args = parse(arguments.PretrainArgs, rest, "rlhf pretrain")

    from rlhf_lib.runs import new_run_path
    from rlhf_lib.trainers.card import write_card
    from rlhf_lib.trainers.pretrain import pretrain as make_model

    with writing_in(args.output_dir or new_run_path("pocket")) as directory:
        seconds = make_model(args, directory)
        print(visible(write_card(directory, args, seconds)))
    return 0


def course(rest: list[str]) -> int:
    """rlhf course ..."""
    from rlhf_lib.course import commands

    return commands.main(rest)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "compare": compare,
    "merge": merge,
    "pretrain": pretrain,
    "course": course,
}


def stop(sentence: str, code: int) -> int:
    """Say why a command ends; returns its exit code."""
    with suppress(OSError):  # nobody may be listening
        print(f"rlhf: {visible(sentence)}", file=sys.stderr)
    return code


def require_text(words: list[str]) -> None:
    """Raise where a word of the command line was no text."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(f"the word {word!r} is not UTF-8; write it in UTF-8, or rename what it names") from None


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 is success, 1 a fault of the machine, 2 a mistake in what was given, 130 an end by Ctrl-C or SIGTERM.

    Training ends with 0 at the first of either signal, after its phase.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        return stop(f"{words[0]!r} is not a command; use {', '.join(COMMANDS)}", 2)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        require_text(words)
        with ending_by(signal.default_int_handler, signal.SIGTERM):
            code = COMMANDS[words[0]](words[1:])
            sys.stdout.flush()  # so that a reader who has gone is noticed here
            return code
    except InputError as error:
        return stop(str(error), 2)
    except CannotWrite as error:
        return stop(str(error), 1)
    except KeyboardInterrupt:
        return stop("stopped; a run goes on from its last checkpoint with --resume --output-dir DIRECTORY", 130)
    except BrokenPipeError:  # the reader of `rlhf ... | head` has gone
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        fault, told = fault_of_machine(error), fault_in_file(error)
        if told is not None and (fault is None or fault[1] == 2):  # the user's own line says more than the path
            fault = f"{told}; correct it", 2
        if fault is None:
            raise
        return stop(*fault)
