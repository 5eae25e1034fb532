"""Methods compared under one budget: `runs` trains and measures, `report` writes it up."""

from rlhf_lib.compare.report import compare

__all__ = ["compare"]
