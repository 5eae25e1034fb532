"""Fast passes underneath the plain formulas: rollouts, forward passes and full-vocabulary numbers that cost less.

Nothing here defines anything: every result is that of a plain function elsewhere in the library, to within rounding, and the
tests in tests/library/test_engine.py hold the two equal. `with plain_formulas():` leaves the plain ones alone.
"""

from rlhf_lib.engine.decoding import Draws
from rlhf_lib.engine.logits import DeferredLogits, expected_logprobs
from rlhf_lib.engine.model import Batch, Passes, PassOptions, Policy
from rlhf_lib.engine.switch import is_fast, plain_formulas, sped_up_by, use_plain_formulas

__all__ = [
    "Batch",
    "DeferredLogits",
    "Draws",
    "PassOptions",
    "Passes",
    "Policy",
    "expected_logprobs",
    "is_fast",
    "plain_formulas",
    "sped_up_by",
    "use_plain_formulas",
]
