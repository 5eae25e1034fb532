"""How many steps a backtracking matcher takes on a text: what a pattern costs, counted and not timed.

It walks Python's own parse tree of a pattern in the order in which `re` tries things, without its shortcuts, so that `re` takes
no more steps than are counted here (times a constant).
"""

import re
import sys
from collections.abc import Iterator

if sys.version_info >= (3, 11):
    from re import _constants as op
    from re import _parser as parser
else:
    import sre_constants as op
    import sre_parse as parser

CATEGORIES = {op.CATEGORY_SPACE: r"\s", op.CATEGORY_NOT_SPACE: r"\S", op.CATEGORY_DIGIT: r"\d", op.CATEGORY_WORD: r"\w"}
CATEGORIES |= {op.CATEGORY_NOT_WORD: r"\W", op.CATEGORY_NOT_DIGIT: r"\D"}


class Steps:
    """Counts the steps of matching one pattern with one text."""

    def __init__(self, pattern: re.Pattern[str], text: str):
        self.nodes = list(parser.parse(pattern.pattern, pattern.flags))
        self.flags, self.text, self.count, self.groups = pattern.flags, text, 0, {}

    def fits(self, node: tuple, i: int) -> bool:
        """Whether a node that stands for one character takes the one at i."""
        self.count += 1
        if i >= len(self.text):
            return False
        kind, value = node
        character = self.text[i]
        if self.flags & re.IGNORECASE:
            character = character.lower()
        if kind is op.ANY:
            return character != "\n" or bool(self.flags & re.DOTALL)
        if kind is op.LITERAL:
            return ord(character) == (ord(chr(value).lower()) if self.flags & re.IGNORECASE else value)
        negated = value[0][0] is op.NEGATE
        return negated != any(self.is_in(character, item) for item in value[negated:])

    def is_in(self, character: str, item: tuple) -> bool:
        """Whether a character is in a part of a set."""
        kind, value = item
        if kind is op.CATEGORY:
            return re.match(CATEGORIES[value], character) is not None
        low, high = value if kind is op.RANGE else (value, value)
        return any(
            low <= ord(form) <= high for form in {character, character.upper() if self.flags & re.IGNORECASE else character}
        )

    def ends(self, nodes: list, k: int, i: int) -> Iterator[int]:
        """All places where nodes[k:] may end that begin at i, in the order in which they are tried."""
        self.count += 1
        if k == len(nodes):
            yield i
            return
        kind, value = nodes[k]
        if kind in (op.ANY, op.LITERAL, op.IN):
            if self.fits(nodes[k], i):
                yield from self.ends(nodes, k + 1, i + 1)
        elif kind in (op.MIN_REPEAT, op.MAX_REPEAT):
            yield from self.repeated(nodes, k, i, *value)
        elif kind in (op.SUBPATTERN, op.BRANCH):
            yield from self.grouped(nodes, k, i)
        elif kind in (op.ASSERT, op.ASSERT_NOT):
            found = next(self.ends(list(value[1]), 0, i), None)  # a look-ahead is tried once, and never again
            if (found is not None) == (kind is op.ASSERT):
                yield from self.ends(nodes, k + 1, i)
        else:
            yield from self.ends(nodes, k + 1, i + self.length(kind, value, i))

    def grouped(self, nodes: list, k: int, i: int) -> Iterator[int]:
        """A group or a choice, and what follows it."""
        kind, value = nodes[k]
        for branch in value[1] if kind is op.BRANCH else [value[3]]:
            for end in self.ends(list(branch), 0, i):
                if kind is op.SUBPATTERN:
                    self.groups[value[0]] = (i, end)
                yield from self.ends(nodes, k + 1, end)

    def length(self, kind: int, value: int, i: int) -> int:
        """Characters of a reference to a group, which always fits in the patterns that are counted; of a place (AT) none."""
        if kind is op.AT:
            return 0  # as if it held: more steps, not fewer
        assert kind is op.GROUPREF, f"{kind} is not known here"
        start, stop = self.groups[value]
        assert self.text.startswith(self.text[start:stop], i)
        self.count += stop - start
        return stop - start

    def repeated(self, nodes: list, k: int, i: int, least: int, most: int, part: parser.SubPattern) -> Iterator[int]:
        """A repeat of one character's node, lazy or greedy, and what follows it."""
        (node,) = part
        stop = i
        while stop - i < least:
            if not self.fits(node, stop):
                return
            stop += 1
        if nodes[k][0] is op.MIN_REPEAT:
            while True:
                yield from self.ends(nodes, k + 1, stop)
                if stop - i >= most or not self.fits(node, stop):
                    return
                stop += 1
        start = stop
        while stop - i < most and self.fits(node, stop):
            stop += 1
        for end in range(stop, start - 1, -1):
            yield from self.ends(nodes, k + 1, end)


def steps(pattern: re.Pattern[str], method: str, text: str) -> tuple[int, bool]:
    """The steps that pattern.method(text) takes, and whether it matches; method: match, fullmatch or search."""
    counter = Steps(pattern, text)
    starts = range(len(text) + 1) if method == "search" else [0]
    for start in starts:
        for end in counter.ends(counter.nodes, 0, start):
            if method != "fullmatch" or end == len(text):
                return counter.count, True
    return counter.count, False
