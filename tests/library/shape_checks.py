"""The type checker of the suite: beartype, which reads a function inside a function once and not each time it is defined."""

from beartype import beartype

SEEN = set()


def beartype_once(function):
    """Checks the function's shapes; of one defined again and again, such as a hook, the first.

    beartype writes code for each function that it is given, milliseconds for a hook that runs in microseconds. Arguments are
    left alone: they check themselves, and in their own words.
    """
    if function.__name__ == "__init__" and function.__module__.startswith("rlhf_lib.args."):
        return function
    if "<locals>" in function.__qualname__:
        if function.__code__ in SEEN:
            return function
        SEEN.add(function.__code__)
    return beartype(function)
