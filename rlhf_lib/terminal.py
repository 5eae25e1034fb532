"""Text from models, files and arguments as a terminal may show it.

Nothing in it moves the cursor, sets a title, or turns the direction of writing around.
"""

import re

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # those that change the direction of writing
    "\u2028\u2029"  # line ends that are none to most programs
    "\ud800-\udfff]"  # halves of characters, as in file names that are not UTF-8; a terminal's encoding refuses them
)


def visible(text: object) -> str:
    r"""The text with every control character that a terminal would obey written out, such as \x1b and \u202e.

    Newlines and tabs stay. Files keep the text as it is; this is for what is printed.
    """
    return UNSEEN.sub(lambda found: written_out(ord(found[0])), str(text))


def written_out(code: int) -> str:
    """A character as Python writes it in a string."""
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
