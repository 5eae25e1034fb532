"""Files that are always whole, in directories that one process at a time writes."""

from rlhf_lib.files.lock import Lock, claim, writing_in
from rlhf_lib.files.whole import CannotWrite, append_whole, whole_file, whole_files, write_atomically, writing

__all__ = [
    "CannotWrite",
    "Lock",
    "append_whole",
    "claim",
    "whole_file",
    "whole_files",
    "write_atomically",
    "writing",
    "writing_in",
]
