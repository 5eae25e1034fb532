"""The models of a run: the last, the best, and those of chosen phases; and the policy of a run that has not ended.

A model's directory says in phase.json after how many phases it was saved. A run that was killed, or still trains, has its
policy in the checkpoint, from which it is built anew.
"""

import json
import re
from pathlib import Path
from typing import Any

from rlhf_lib.args import InputError, SftArgs
from rlhf_lib.args.types import checked, shown
from rlhf_lib.files import whole_files
from rlhf_lib.models import BridgedTransformer, TransformerWithLora, checkpoint, load_policy
from rlhf_lib.runs import checkpoints, shares

LAST, BEST = "model", "model-best"
PHASE_FILE = "phase.json"


def phase_directory(phases: int) -> str:
    """Where the model after so many phases is kept."""
    return f"model-phase-{phases:04d}"


def keep_model(model: Any, directory: Path, about: dict[str, Any]) -> None:
    """Save a model with what there is to know about it, `phase` first: after how many phases it was."""
    with whole_files(directory) as new:
        model.save_pretrained(new)
        (new / PHASE_FILE).write_text(json.dumps(about) + "\n")


def about_model(directory: Path) -> dict[str, Any] | None:
    """What was saved with a model; empty for a model of before, None where there is no whole model."""
    if not any((directory / name).is_file() for name in ("config.json", "adapter_config.json")):
        return None
    about = checkpoint.read_settings(directory / PHASE_FILE, str(directory))
    for name, value in about.items():
        fits = (
            checkpoints.is_count(value)
            if name == "phase"
            else value is None or checkpoints.is_count(value) or isinstance(value, float)
        )
        if not fits:
            raise InputError(
                f"{directory / PHASE_FILE} has {name}={shown(value)}, which must be a number; correct it, or remove that file"
            )
    return about


def policy_of_run(run: str, which: str = "last", **options: Any) -> tuple[BridgedTransformer, str]:
    """A policy of a run, and a sentence that says from which phase it is.

    Args:
        run: the run's directory, which may be that of a run under way.
        which: last, best or phase-N.
        options: device and dtype.

    Raises:
        InputError: there is no such model, or not yet; a reward model; a damaged checkpoint.
    """
    path = Path(run)
    if which != "last":
        name = BEST if which == "best" else phase_directory(int(which.removeprefix("phase-")))
        about = about_model(path / name)
        if about is None:
            raise InputError(f"run={run!r} keeps no model {which!r} ({name}/); {those_kept(path)}")
        return load_policy(path / name, **options), sentence(run, about, f"{name}/")
    about, saved = about_model(path / LAST), checkpoints.about_checkpoint(path)
    if about is not None and saved.get("next_phase", 0) <= about.get("phase", float("inf")):
        return load_policy(path / LAST, **options), sentence(run, about, f"{LAST}/")
    if not (path / "args.json").is_file():
        raise InputError(f"run={run!r} holds no trained model and no run; give the directory of a training run")
    if not (path / checkpoints.NAME).is_file():
        raise InputError(f"run={run!r} holds no trained model and no checkpoint; {those_kept(path)}")
    return policy_of_checkpoint(path, **options)


def policy_of_checkpoint(path: Path, **options: Any) -> tuple[BridgedTransformer, str]:
    """The policy of a run's last checkpoint, and a sentence that says from which phase it is."""
    what = f"run={str(path)!r}"
    told, state = read_model_args(path / "args.json"), checkpoints.load_checkpoint(path / checkpoints.NAME)
    tensors = shares.put_back(state, path, {}, [])["model"]
    if not any(name.startswith(("lora.", "base_model.")) for name in tensors):
        raise InputError(
            f"{what} trains a reward model, which writes no answers; let it end and give its model/ as --reward-model"
        )
    with checkpoint.sound(what, "args.json and checkpoint.pt are of two runs, or the base model has changed"):
        if not any(name.startswith("lora.") for name in tensors):
            model = BridgedTransformer(told.base_model, **options)
        elif told.adapter is not None:
            model = TransformerWithLora.from_adapter(told.adapter, **options)
        else:
            model = TransformerWithLora(told.base_model, told.lora_alpha, told.lora_rank, maps=told.lora_maps, **options)
        model.load_trainable_state(tensors)
    phases = checkpoint.read_settings(path / "args.json", what)
    about = {"phase": state["next_phase"], "of": phases.get("total_phases", phases.get("epochs"))}
    return model, sentence(str(path), about, checkpoints.NAME)


def read_model_args(file: Path) -> SftArgs:
    """What a run's args.json says of its model, whatever the run: SftArgs has all that there may be.

    Raises:
        InputError: no JSON object, or a value that the field does not allow.
    """
    told = checkpoint.read_settings(file, str(file))
    names = ("base_model", "adapter", "lora_rank", "lora_alpha", "lora_maps")
    try:
        return SftArgs(**checked(SftArgs, {name: told[name] for name in names if name in told}))
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def sentence(run: str, about: dict[str, Any], where: str) -> str:
    """From which phase of a run a model is."""
    if "phase" not in about:
        return f"{run}: the trained model ({where})"
    if about["phase"] == 0:
        return f"{run}: before the first phase is learned and saved, so this is the model that it starts from ({where})"
    of = f" of {about['of']}" if about.get("of") else ""
    measured = about.get("held_out_accuracy")
    found = "" if measured is None else f", with {measured:.1%} of the validation problems right"
    return f"{run}: after phase {about['phase']}{of}{found} ({where})"


def those_kept(path: Path) -> str:
    """What a run keeps besides, as a remedy."""
    names = sorted(one.name for one in path.glob("model*") if about_model(one) is not None)
    phases = [f"phase-{int(found[1])}" for name in names if (found := re.fullmatch(r"model-phase-(\d+)", name))]
    kept = [*(["last"] if LAST in names else []), *(["best"] if BEST in names else []), *phases]
    if not kept:
        return "it keeps none yet; train with --save-model-every N or --keep-best, or wait for its first checkpoint"
    return f"it has {', '.join(kept)}"
