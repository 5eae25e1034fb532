"""Held-out problems: accuracy with its uncertainty, pass@k, votes and reranking, and the files that show them."""

from rlhf_lib.evaluate.accuracy import Accuracy
from rlhf_lib.evaluate.judging import Evaluation, SampledEvaluation, evaluate, evaluate_samples

__all__ = ["Accuracy", "Evaluation", "SampledEvaluation", "evaluate", "evaluate_samples"]
