"""A model that has become NaN or infinite: found before anything of it is saved."""

from typing import Any

from rlhf_lib import parallel
from rlhf_lib.args import InputError
from rlhf_lib.finite import not_finite
from rlhf_lib.sharding import own

SHOWN = 3  # names in an error


class TrainingDiverged(InputError):
    """The objective, its gradient or the weights are no longer finite numbers; the last checkpoint is from before."""


def fault_of(trainer: Any) -> str | None:
    """What is wrong with a trainer's model: weights that are NaN or infinite, or so large that it computes such. None if sound.

    One pass over what the optimiser trains, and one of the model over a few tokens.
    """
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    trained = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    named = [(names.get(id(parameter), f"parameter {i}"), own(parameter)) for i, parameter in enumerate(trained)]
    bad = list(dict.fromkeys(parallel.gather_lists(not_finite(named))))  # where weights are spread, each sees its shares
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        return f"{len(bad)} of {len(named)} trained tensors hold NaN or infinity ({', '.join(bad[:SHOWN])}{more})"
    is_broken = not all(bool(output.isfinite().all()) for output in trainer.outputs_of_a_few_tokens())
    if not parallel.agree(is_broken):  # of several processes, each sees its own rows
        return None
    largest = max((float(parameter.detach().abs().max()) for _, parameter in named if parameter.numel()), default=0.0)
    return f"the model computes NaN or infinity, with weights as large as {largest:.3g}"


def stop_if_not_finite(trainer: Any, phase: int) -> None:
    """Raise where the updates of a phase, counted from 0, have broken the model.

    Raises:
        TrainingDiverged: what is wrong, and what now.
    """
    broken = fault_of(trainer)
    if broken is not None:
        raise TrainingDiverged(
            f"{broken} after the updates of phase {phase + 1}: the run has diverged and nothing of that phase is saved; its "
            "last checkpoint is from before, resume from it or start anew with a lower learning rate"
        )
