"""The command line. Arguments come straight from the dataclasses of `args`; nothing heavy is imported until a command runs."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_lib import args as arguments
from rlhf_lib.args import InputError
from rlhf_lib.recipes import RECIPES, parse

ALGORITHMS = {"ppo": arguments.RLHFArgs, "ppo-lora": arguments.LoraArgs, "grpo": arguments.GrpoArgs}
HELP = """usage: rlhf COMMAND [OPTIONS]     (every command answers --help)

Train a language model by reinforcement learning, on a laptop or a GPU:
  rlhf train grpo --task pocket      GRPO on word problems: watch reasoning emerge, 2 minutes
  rlhf train ppo-lora --task pocket  PPO with a value head, on adapters
  rlhf train ppo --task pocket       PPO with a value head, every weight trained
  rlhf train grpo                    the classic first exercise: earn a reward for full stops

Look at the result:
  rlhf sample --run runs/NAME        completions before and after
  rlhf eval --run runs/NAME          accuracy on held-out problems, with its interval

Learn it: the course in chapters/, with exercises and checkers:
  rlhf course                        status, check, hint, solution, reset

Make the bundled model anew:
  rlhf pretrain                      tokenizer, text, training and model card
"""


def option(rest: list[str], *names: str) -> str | None:
    """The value of an option given as --name VALUE or --name=VALUE."""
    for i, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") in names:
            return value if equals else next(iter(rest[i + 1 : i + 2]), None)
    return None


def starting_values(algorithm: str, rest: list[str]) -> Any:
    """The defaults that flags then override: --resume takes the run's own, --recipe FILE that file's, --task its recipe's."""
    kind = ALGORITHMS[algorithm]
    output, recipe, task = option(rest, "--output-dir"), option(rest, "--recipe"), option(rest, "--task")
    if "--resume" in rest:
        if output is None:
            raise InputError("--resume continues the run in --output-dir; add --output-dir RUN_DIRECTORY")
        file = Path(output) / "args.json"
        if not file.is_file():
            raise InputError(f"output_dir={output!r} holds no run to resume; leave out --resume to start one")
    elif recipe is not None:
        file = Path(recipe)
        if not file.is_file():
            raise InputError(f"--recipe {recipe!r} is not a file; give the args.json of a run, or one of {RECIPES}")
    else:
        file = RECIPES / f"{algorithm}-{task or 'char-count'}.json"
        if not file.is_file():
            return kind()
    return arguments.from_json(kind, file.read_text(), str(file))


def without(rest: list[str], name: str) -> list[str]:
    """The words without --name VALUE or --name=VALUE."""
    kept, skip = [], False
    for word in rest:
        if not skip and not (word == name or word.startswith(f"{name}=")):
            kept.append(word)
        skip = word == name
    return kept


def train(rest: list[str]) -> int:
    """rlhf train ALGORITHM ..."""
    if not rest or rest[0] not in ALGORITHMS:
        listed = "\n".join(f"  {name:9} {kind.__doc__.splitlines()[0]}" for name, kind in ALGORITHMS.items())
        print(
            f"usage: rlhf train ALGORITHM [OPTIONS]\n\nAlgorithms:\n{listed}\n\n"
            "rlhf train grpo --task pocket --help shows all options "
            "and the values that task starts from; --recipe FILE starts from a run's args.json."
        )
        return 0 if rest and rest[0] in ("-h", "--help") else 2
    algorithm, rest = rest[0], rest[1:]
    default = starting_values(algorithm, rest)
    args = parse(ALGORITHMS[algorithm], without(rest, "--recipe"), f"rlhf train {algorithm}", default)

    from rlhf_lib.trainers import TRAINERS

    TRAINERS[algorithm](args).train()
    return 0


def load_policy(args: arguments.ModelArgs) -> Any:
    """The model that --run, or --base-model with --adapter, names."""
    from rlhf_lib.models import BridgedTransformer, TransformerWithLora

    options = {"device": args.device, "dtype": args.dtype}
    if args.run is None and args.adapter is None:
        return BridgedTransformer(args.base_model, **options)
    if args.run is None:
        return TransformerWithLora.from_adapter(args.adapter, args.base_model, **options)
    model = Path(args.run) / "model"
    if not model.is_dir():
        raise InputError(f"run={args.run!r} holds no trained model; give the directory of a finished training run")
    if (model / "adapter_config.json").is_file():
        return TransformerWithLora.from_adapter(model, **options)
    return BridgedTransformer(model, **options)


def sample(rest: list[str]) -> int:
    """rlhf sample ..."""
    args = parse(arguments.SampleArgs, rest, "rlhf sample")

    import torch

    from rlhf_lib.models import BridgedTransformer, TransformerWithLora
    from rlhf_lib.rollouts import rollout
    from rlhf_lib.tasks import make_task

    model = load_policy(args)
    prompts = [args.prompt] * args.count if args.prompt else make_task(args.task).held_out(args.count).prompts
    shown = {"trained": model} if args.run or args.adapter else {"model": model}
    if isinstance(model, TransformerWithLora):
        shown = {"base": BridgedTransformer(model.base.name, device=args.device, dtype=args.dtype), **shown}
    texts = {}
    for name, which in shown.items():
        generator = torch.Generator(which.device).manual_seed(args.seed)
        texts[name] = rollout(which, prompts, args.gen_len, temperature=args.temperature, generator=generator).completions
    for i, prompt in enumerate(prompts):
        print(f"\n=== {prompt.rstrip()}")
        for name, completions in texts.items():
            print(f"--- {name}\n{completions[i].rstrip()}")
    return 0


def evaluate(rest: list[str]) -> int:
    """rlhf eval ..."""
    args = parse(arguments.EvalArgs, rest, "rlhf eval")

    from rlhf_lib.evaluate import evaluate as judge
    from rlhf_lib.tasks import make_task

    task, model = make_task(args.task), load_policy(args)
    prompts = task.held_out(args.problems, args.few_shot, args.style if args.few_shot else None)
    if prompts is None:
        raise InputError(f"task={args.task!r} has no right answers to evaluate; use --task pocket")
    judged = judge(model, task, prompts, gen_len=args.gen_len, temperature=args.temperature, seed=args.seed)
    print(f"accuracy {judged.accuracy} on {args.problems} held-out problems of {args.task}")
    for style, (share, accuracy) in judged.by_style().items():
        print(f"  {style:10} {share:6.1%} of answers, accuracy {accuracy}")
    if args.output:
        rows = zip(prompts.prompts, judged.completions, judged.correct, strict=True)
        lines = [json.dumps({"prompt": p, "completion": c, "correct": right}) + "\n" for p, c, right in rows]
        Path(args.output).write_text("".join(lines))
        print(f"completions and verdicts: {args.output}")
    return 0


def pretrain(rest: list[str]) -> int:
    """rlhf pretrain ..."""
    args = parse(arguments.PretrainArgs, rest, "rlhf pretrain")

    from rlhf_lib.trainers.card import write_card
    from rlhf_lib.trainers.pretrain import pretrain as make_model

    directory, seconds = make_model(args)
    print(write_card(directory, args, seconds))
    return 0


def course(rest: list[str]) -> int:
    """rlhf course ..."""
    from rlhf_lib.course import commands

    return commands.main(rest)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "sample": sample,
    "eval": evaluate,
    "pretrain": pretrain,
    "course": course,
}


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 is success, 2 a mistake in what was given, 130 a second Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(HELP)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        print(f"rlhf: {words[0]!r} is not a command; use {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return COMMANDS[words[0]](words[1:])
    except InputError as error:
        print(f"rlhf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("rlhf: stopped; a run goes on from its last checkpoint with --resume --output-dir DIRECTORY", file=sys.stderr)
        return 130
