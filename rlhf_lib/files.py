"""Files that are always whole: a reader, or a crash, never meets half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """Write under a temporary name, reach the disk, then rename: the file is always whole, old or new."""
    temporary = file.with_name(f".{file.name}.tmp")
    with open(temporary, "wb") as handle:
        yield handle
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, file)


def write_atomically(file: Path, text: str) -> None:
    """Write a text file that is always whole."""
    with whole_file(file) as handle:
        handle.write(text.encode())
