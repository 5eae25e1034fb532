"""Files that are always whole: a reader, a crash or a full disk never leaves half of one."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

LAST = ("config.json", "adapter_config.json")  # by these a model's directory is recognised, so they are moved into it last
NEW = ".new.tmp"


class CannotWrite(OSError):
    """The disk is full, or refuses to be written; the message gives file, reason and remedy."""


def disk_error(error: BaseException | None) -> OSError | None:
    """The operating system's refusal that an error comes of; other languages' libraries tell its number in their text."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        told = re.search(r"\(os error (\d+)\)", str(error))
        if told:
            return OSError(int(told[1]), os.strerror(int(told[1])))
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Whatever the disk refuses inside is a CannotWrite, in one sentence that names `path`."""
    try:
        yield
    except CannotWrite:
        raise
    except Exception as error:
        found = disk_error(error)
        if found is None:
            raise
        raise CannotWrite(
            f"{path} could not be written ({found.strerror or found}); make room there, or choose another place; what was "
            "there before is as it was"
        ) from error


@contextmanager
def whole_file(file: Path) -> Iterator[IO[bytes]]:
    """Write under a temporary name, reach the disk, then rename: the file is always whole, old or new.

    Raises:
        CannotWrite: the disk is full or refuses; the old file stays.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    with writing(file):
        try:
            with open(temporary, "wb") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(temporary, file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_atomically(file: Path, text: str) -> None:
    """Write a text file that is always whole."""
    with whole_file(file) as handle:
        handle.write(text.encode())


def append_whole(file: Path, text: str) -> None:
    """Add text to a file; where the disk refuses, the file is cut back to what it was."""
    left = memoryview(text.encode())
    with writing(file), open(file, "ab", buffering=0) as handle:
        size = handle.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[handle.write(left) :]
        except OSError:
            with suppress(OSError):
                handle.truncate(size)
            raise


def reach_disk(file: Path) -> None:
    """Wait until a file is on the disk."""
    if file.is_file():
        with open(file, "rb+") as handle:
            os.fsync(handle.fileno())


@contextmanager
def whole_files(directory: str | os.PathLike) -> Iterator[Path]:
    """A place to write several files of a directory; they are moved into it when all are written.

    What the directory has besides stays. A file by which a model's directory is recognised is moved last, so that a kill
    leaves either no model or a whole one.
    """
    directory = Path(directory)
    new = directory / NEW
    with writing(directory):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        try:
            yield new
            for file in new.rglob("*"):
                reach_disk(file)
            for file in sorted(new.iterdir(), key=lambda file: (file.name in LAST, file.name)):
                if file.is_dir():
                    shutil.rmtree(directory / file.name, ignore_errors=True)
                os.replace(file, directory / file.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
            with suppress(OSError):
                directory.rmdir()  # where nothing came of it
