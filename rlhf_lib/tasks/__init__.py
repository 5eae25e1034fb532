"""Tasks by name, and those that the user brings."""

import inspect
from collections.abc import Callable
from typing import Any

from rlhf_lib.args import CodeInFile, InputError, PromptArgs, TaskArgs, TrainingArgs, require, require_no_saved_code
from rlhf_lib.args.code import described, names_code, saved_name
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.rewards import choose_rewards, function_in_file
from rlhf_lib.rewards.learned import reward_model_reward
from rlhf_lib.tasks.char_count import FixedPrefixTask
from rlhf_lib.tasks.given import GivenPromptsTask
from rlhf_lib.tasks.pocket import PocketTask
from rlhf_lib.tasks.task import Prompts, Task
from rlhf_lib.tasks.word_problems import Gsm8kTask, MathQaTask, SvampTask, WordProblemTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (PocketTask, Gsm8kTask, SvampTask, MathQaTask)}

__all__ = [
    "TASKS",
    "FixedPrefixTask",
    "GivenPromptsTask",
    "Gsm8kTask",
    "MathQaTask",
    "PocketTask",
    "Prompts",
    "SvampTask",
    "Task",
    "WordProblemTask",
    "make_task",
    "task_of",
]


def task_class(task: str | type) -> type[Task]:
    """The class of a task: the library's by its name, the user's own as CodeInFile or as the class itself.

    Raises:
        InputError: no such task, a file that has no such class, or a class that is no whole task.
    """
    if isinstance(task, str) and not isinstance(task, CodeInFile):
        own = "" if not names_code(task) else "; for one of your own give the class itself, or CodeInFile(...)"
        if task not in TASKS:
            raise InputError(f"task={task!r} does not exist; use {', '.join([*TASKS, FixedPrefixTask.name])}{own}")
        return TASKS[task]
    kind, shown = task.load() if isinstance(task, CodeInFile) else task, saved_name(task)
    is_task = isinstance(kind, type) and issubclass(kind, Task)
    require(is_task, f"task={shown} is {kind!r:.60}, no subclass of Task; name a class that derives from rlhf_lib.Task")
    require(
        not inspect.isabstract(kind),
        f"task={shown} lacks {', '.join(sorted(kind.__abstractmethods__))}; define that in the class",
    )
    if not hasattr(kind, "name"):
        kind.name = kind.__name__
    return kind


def make_task(name: str | type | None, prefix: str = "", reward_fn: Callable | None = None) -> Task:
    """The task of that name as it is by default; None or "char-count" is the fixed prefix with its reward function."""
    if name in (None, FixedPrefixTask.name):
        return FixedPrefixTask(prefix, reward_fn)
    return made(task_class(name))


def made(kind: type[Task], *given: Any) -> Task:
    """An instance; what the class itself raises is one sentence."""
    try:
        return kind(*given)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"task={kind.name} cannot be made: {described(error)}; correct {kind.__name__}.__init__") from error


def task_of(
    args: PromptArgs, model: Any = None, gen_len: int = 0, prefix: str = "", reward_fn: Callable | str | None = None
) -> Task:
    """The task that arguments ask for, with their data, prompts and rewards; `model` tells tokenizer and context.

    Raises:
        InputError: no such task, an option that it does not have, or code that a file of arguments names.
    """
    require_no_saved_code(args)
    tokenizer = getattr(model, "tokenizer", None)
    if getattr(args, "prompts", None) is not None:
        task: Task = GivenPromptsTask(args, tokenizer, room_for_prompts(model, gen_len))
    elif args.task not in (None, FixedPrefixTask.name) and issubclass(task_class(args.task), WordProblemTask):
        task = made(task_class(args.task), args, tokenizer, room_for_prompts(model, gen_len))
    else:
        own = function_in_file(reward_fn) if isinstance(reward_fn, CodeInFile) else reward_fn
        task = make_task(args.task, prefix, own)
        require_no_data(task, args)
        if isinstance(args, TrainingArgs) and isinstance(args.task, (CodeInFile, type)):
            try_out(task, args.seed)
    if isinstance(args, TaskArgs):
        reward(task, args)
    return task


def try_out(task: Task, seed: int) -> None:
    """Raise now, and not in a later phase, where a task of the user's own draws something else than it is asked for."""
    try:
        first, again = task.draw(2, seed, 0), task.draw(2, seed, 0)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"task={task.name} draws no prompts: {described(error)}; correct {type(task).__name__}.draw"
        ) from error
    texts = first.prompts if isinstance(first, Prompts) else None
    require(
        texts is not None and len(texts) == 2 and all(isinstance(text, str) and text for text in texts),
        f"task={task.name} drew {first!r:.80}; draw(2, seed, phase) returns Prompts of 2 texts that are not empty",
    )
    require(
        again.prompts == texts,
        f"task={task.name} draws other prompts for the same numbers, so that a resumed run would not see what it saw; draw "
        "with random.Random(f'{seed}-{phase}')",
    )


def room_for_prompts(model: Any, gen_len: int) -> int | None:
    """Most tokens of a prompt that leave a completion its room in the model's context; None where there is no model."""
    room = None if model is None else model.cfg.n_ctx - gen_len - 1
    require(
        room is None or room > 0,
        f"gen_len={gen_len} leaves no room for prompts in the model's context of {(room or 0) + gen_len + 1}; lower it",
    )
    return room


def require_no_data(task: Task, args: PromptArgs) -> None:
    """Raise where arguments ask for what only word problems have."""
    plain = args.data is None and not args.columns and args.prompt_style == "plain"
    require(plain, f"task={task.name} has no data sets and prompt styles; leave out data, columns and prompt_style")
    examples = args.few_shot == 0 or not isinstance(args, TrainingArgs)
    require(examples, f"task={task.name} trains without examples; leave out few_shot={args.few_shot}")


def reward(task: Task, args: TaskArgs) -> None:
    """Give a task the rewards that arguments ask for in place of its own."""
    named = [entry for entry in args.rewards if type(entry) is str]
    has_answers = not isinstance(task, FixedPrefixTask)
    require(
        has_answers or not named,
        f"rewards={' '.join(named)} need right answers, which task={task.name} has not; use pocket or gsm8k, or rewards of "
        "your own",
    )
    if args.rewards:
        task.reward_fns, task.reward_weights = choose_rewards(args.rewards)
    if args.reward_model is not None:
        learned = reward_model_reward(RewardModel.trained(args.reward_model, device=getattr(args, "device", "auto")))
        own = (task.reward_fns, task.reward_weights) if args.rewards else ((), ())
        task.reward_fns, task.reward_weights = (*own[0], learned), (*own[1], 1.0)
