"""Tasks by name."""

from collections.abc import Callable
from typing import Any

from rlhf_lib.args import InputError, PromptArgs, TaskArgs, TrainingArgs, require
from rlhf_lib.models.reward_model import RewardModel
from rlhf_lib.rewards import choose_rewards
from rlhf_lib.rewards.learned import reward_model_reward
from rlhf_lib.tasks.char_count import FixedPrefixTask
from rlhf_lib.tasks.pocket import PocketTask
from rlhf_lib.tasks.task import Prompts, Task
from rlhf_lib.tasks.word_problems import Gsm8kTask, MathQaTask, SvampTask, WordProblemTask

TASKS: dict[str, type[Task]] = {task.name: task for task in (PocketTask, Gsm8kTask, SvampTask, MathQaTask)}

__all__ = [
    "TASKS",
    "FixedPrefixTask",
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


def make_task(name: str | None, prefix: str = "", reward_fn: Callable | None = None) -> Task:
    """The task of that name as it is by default; None or "char-count" is the fixed prefix with its reward function."""
    if name in (None, FixedPrefixTask.name):
        return FixedPrefixTask(prefix, reward_fn)
    if name not in TASKS:
        raise InputError(f"task={name!r} does not exist; use {', '.join([*TASKS, FixedPrefixTask.name])}")
    return TASKS[name]()


def task_of(args: PromptArgs, model: Any = None, gen_len: int = 0, prefix: str = "", reward_fn: Callable | None = None) -> Task:
    """The task that arguments ask for, with their data, prompts and rewards; `model` tells tokenizer and context.

    Raises:
        InputError: no such task, or an option that it does not have.
    """
    if args.task in TASKS and issubclass(TASKS[args.task], WordProblemTask):
        room = None if model is None else model.cfg.n_ctx - gen_len - 1
        require(
            room is None or room > 0,
            f"gen_len={gen_len} leaves no room for prompts in the model's context of {(room or 0) + gen_len + 1}; lower it",
        )
        task: Task = TASKS[args.task](args, getattr(model, "tokenizer", None), room)
    else:
        task = make_task(args.task, prefix, reward_fn)
        plain = args.data is None and not args.columns and args.prompt_style == "plain"
        require(plain, f"task={task.name} has no data sets and prompt styles; leave out data, columns and prompt_style")
        examples = args.few_shot == 0 or not isinstance(args, TrainingArgs)
        require(examples, f"task={task.name} trains without examples; leave out few_shot={args.few_shot}")
    if not isinstance(args, TaskArgs):
        return task
    can_judge = not args.rewards or args.task in TASKS
    require(can_judge, f"rewards={args.rewards} need right answers, which task={task.name} has not; use pocket or gsm8k")
    if args.rewards:
        task.reward_fns, task.reward_weights = choose_rewards(args.rewards)
    if args.reward_model is not None:
        learned = reward_model_reward(RewardModel.trained(args.reward_model, device=getattr(args, "device", "auto")))
        own = (task.reward_fns, task.reward_weights) if args.rewards else ((), ())
        task.reward_fns, task.reward_weights = (*own[0], learned), (*own[1], 1.0)
    return task
