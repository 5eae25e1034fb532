"""What the machine could not do, in one sentence: no room on the disk or in memory, no permission, no such path."""

import errno

PATHS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
REMEDIES = {
    errno.ENOSPC: "free some space; a run goes on from its last checkpoint with --resume --output-dir DIRECTORY",
    errno.EDQUOT: "free some space, or write elsewhere with --output-dir DIRECTORY",
    errno.EROFS: "write elsewhere, with --output-dir DIRECTORY",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOMEM: "close other programs, or take a smaller model",
}
NO_ROOM = ("No space left on device", "os error 28", "PytorchStreamWriter failed writing")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "Storage size calculation overflowed")
LESS_MEMORY = "train with a smaller --micro-batch-size (the gradient stays the same), or lower --batch-size or --gen-len"


def fault_of_machine(error: BaseException) -> tuple[str, int] | None:
    """The sentence and the exit code that an exception is worth: 1 the machine's fault, 2 a path that was given.

    None for all others, which are mistakes of a program and to be seen whole.
    """
    first = " ".join(str(error).split())[:200]
    if isinstance(error, OSError):
        place = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        remedy = REMEDIES.get(error.errno, "check the path" if error.errno in PATHS else "")
        told = f"{place}{error.strerror or first or type(error).__name__}"
        return f"{told}; {remedy}" if remedy else told, 2 if error.errno in PATHS else 1
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return f"out of memory ({first or type(error).__name__}); {LESS_MEMORY}", 1
    if any(words in str(error) for words in NO_ROOM):
        return f"{first}; {REMEDIES[errno.ENOSPC]}", 1
    return None
