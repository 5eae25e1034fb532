"""The program of symbolic.Judge: reads pairs of expressions as JSON lines, and writes equal or different for each.

It imports math-verify and nothing of this library. Only its LaTeX parser is used, which evaluates no code.
"""

import contextlib
import json
import sys

from math_verify import LatexExtractionConfig, parse, verify

MOST_MEMORY = 4 * 2**30  # bytes
SECONDS = 2  # for each of parsing and comparing


def are_equal(answer: str, reference: str) -> bool:
    """math-verify's verdict; its own bounds on time hold, since this is a main thread."""
    target, found = (
        parse(f"${text.strip().strip('$')}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=SECONDS)
        for text in (reference, answer)
    )
    return bool(target and found and verify(target, found, timeout_seconds=SECONDS))


def main() -> None:
    """Answer until the input ends."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # where memory cannot be limited, time still is
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        verdict = False
        with contextlib.suppress(Exception):
            verdict = are_equal(*json.loads(line))
        print("equal" if verdict else "different", flush=True)


if __name__ == "__main__":
    main()
