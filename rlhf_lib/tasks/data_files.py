"""Rows of a data set: from Hugging Face's hub, or from files on this machine (JSON lines, JSON, CSV, parquet).

A row knows where it stands, so that whatever is found wrong with it later is said with file and line.
"""

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rlhf_lib.args import InputError
from rlhf_lib.args.types import Misfit, as_text, shown

FORMATS = (".jsonl", ".json", ".csv", ".parquet")
"""Endings of files, in any case; the first three also with .gz after them."""
SPLIT_WORDS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}
SHARD = r"-\d+-of-\d+"


class BadRow(InputError):
    """A row that cannot be used; the message says which one, and why."""


class Row(dict):
    """A row by its columns; a column that is null, NaN or not there is a ValueError or a KeyError when it is read."""

    def __init__(self, values: Mapping[str, Any], origin: str):
        super().__init__(values)
        self.origin = origin
        """Where it stands, such as "line 41 of train.jsonl"."""

    def __getitem__(self, column: str) -> Any:
        value = super().__getitem__(column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise ValueError(f"{column} is {'null' if value is None else 'NaN'}")
        return value

    def renamed(self, names: Mapping[str, str]) -> "Row":
        """The row with our column names (keys) for theirs (values); one that is missing stays missing."""
        kept = {column: value for column, value in self.items() if column not in names.values()}
        return Row({**kept, **{ours: self.get(theirs) for ours, theirs in names.items()}}, self.origin)


class Reader:
    """Reads rows, and refuses the first bad one, or leaves all of them out and keeps count.

    Args:
        skip_bad_rows: leave bad rows out.
        columns: our column names with the data's.
    """

    def __init__(self, skip_bad_rows: bool = False, columns: Mapping[str, str] | None = None):
        self.skip_bad_rows, self.columns = skip_bad_rows, columns or {}
        self.read = 0
        """Rows that were there."""
        self.left_out: list[str] = []
        """What is wrong with each row that was left out."""

    def refuse(self, origin: str, reason: str) -> None:
        """A row is bad: raise, or note it.

        Raises:
            BadRow: bad rows are not to be left out.
        """
        if not self.skip_bad_rows:
            raise BadRow(f"{origin}: {reason}; mend or remove it, or leave such rows out with skip_bad_rows")
        self.left_out.append(f"{origin}: {reason}")

    def rows(self, found: Iterator[tuple[str, Any]]) -> list[Row]:
        """The rows among values with their origins; a ValueError in the place of a value says what was wrong with it."""
        kept = []
        for origin, value in found:
            self.read += 1
            if isinstance(value, ValueError):
                self.refuse(origin, str(value))
            elif not isinstance(value, dict):
                self.refuse(origin, f"{shown(value)} is no row, which is an object such as {{'question': ..., 'answer': ...}}")
            elif missing := [theirs for theirs in self.columns.values() if theirs not in value]:
                self.refuse(origin, f"no column {missing[0]!r}, which columns asks for; it has {', '.join(map(str, value))}")
            else:
                kept.append(Row(value, origin).renamed(self.columns))
        return kept

    @property
    def report(self) -> str | None:
        """How many rows were left out, and what the first was; None without any."""
        if not self.left_out:
            return None
        return f"{len(self.left_out)} of {self.read} rows left out; the first: {self.left_out[0]}"


def text_in(row: Mapping[str, Any], column: str) -> str:
    """The text of a column, without white space around it; a number counts as its text.

    Raises:
        KeyError: no such column.
        ValueError: null, NaN, an empty text, a list, or anything else that is no text.
    """
    return plain_text(row[column], column)


def plain_text(value: Any, name: str) -> str:
    """A text without white space around it; a number counts as its text. Raises ValueError: see text_in."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"{name} is {shown(value)}, not a text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} is {value}, not a text")
    text = str(value).strip()
    if not text:
        raise ValueError(f"{name} is empty")
    try:
        return as_text(text)
    except Misfit as rule:
        raise ValueError(f"{name} must {rule}") from None


def format_of(file: Path) -> str | None:
    """Which of FORMATS a file is by its name; None for another."""
    name = file.name.lower()
    found = next((ending for ending in FORMATS if name.removesuffix(".gz").endswith(ending)), None)
    return None if found == ".parquet" and name.endswith(".gz") else found


def stem_of(file: Path) -> str:
    """A data file's name without its endings."""
    return file.name[: len(file.name.lower().removesuffix(".gz")) - len(format_of(file) or "")]


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked where its name ends in .gz."""
    with gzip.open(file, "rb") if file.name.lower().endswith(".gz") else open(file, "rb") as handle:
        yield handle


def read_file(file: Path, reader: Reader | None = None) -> list[Row]:
    """All rows of one file: JSON lines, a JSON list (or an object that holds one list), CSV with a header, or parquet.

    Raises:
        BadRow: a row is none, and `reader` does not leave such rows out.
        InputError: the file cannot be read at all.
    """
    read = {".jsonl": json_lines, ".json": json_list, ".csv": csv_records, ".parquet": parquet_rows}[
        format_of(file) or ".jsonl"
    ]
    try:
        return (reader or Reader()).rows(read(file))
    except BadRow:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError, zlib.error) as error:  # pyarrow's are among them
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"data file {file} cannot be read ({first}); get it again") from None


def decoded(line: bytes, is_first: bool = False) -> str:
    """A line as text; the first may begin with a byte-order mark."""
    try:
        return line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start})") from None


def json_value(text: str) -> Any:
    """The value of a JSON text, or a ValueError that says what is wrong with it."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from None


def json_lines(file: Path) -> Iterator[tuple[str, Any]]:
    """The value of every line that is not blank."""
    with opened(file) as handle:
        for number, line in enumerate(handle, 1):
            origin = f"line {number} of {file}"
            try:
                text = decoded(line, number == 1)
                if text.strip():
                    yield origin, json_value(text)
            except ValueError as error:
                yield origin, error


def json_list(file: Path) -> Iterator[tuple[str, Any]]:
    """The entries of the list that a file is, or of the one list in the object that it is."""
    with opened(file) as handle:
        found = json_value(decoded(handle.read(), is_first=True))
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else found
    if not isinstance(found, list):
        raise ValueError("it holds no list of rows; a row is an object such as {'question': ..., 'answer': ...}")
    for number, value in enumerate(found, 1):
        yield f"row {number} of {file}", value


def csv_records(file: Path) -> Iterator[tuple[str, Any]]:
    """The records of a comma-separated file under the names in its first line, each with the line that it begins in."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with opened(file) as handle:
            records = csv.reader((decoded(line, number == 0) for number, line in enumerate(handle)), strict=True)
            names, first = next(records, []), records.line_num + 1
            if len(names) > len(set(names)):
                raise ValueError(f"two columns have the same name in {', '.join(names)}")
            for record in records:
                origin, first = f"line {first} of {file}", records.line_num + 1
                if len(record) == len(names):
                    yield origin, dict(zip(names, record, strict=True))
                elif record:
                    yield origin, ValueError(f"it has {len(record)} fields under {len(names)} names")
    except (ValueError, csv.Error) as error:
        raise ValueError(f"line {records.line_num + 1}: {error}") from None
    finally:
        csv.field_size_limit(limit)


def parquet_rows(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a parquet file."""
    import pyarrow.parquet

    for number, value in enumerate(pyarrow.parquet.read_table(file).to_pylist(), 1):
        yield f"row {number} of {file}", value


def files_in(folder: Path) -> list[Path]:
    """The data files of a folder, in order of their names."""
    files = sorted(file for file in folder.iterdir() if format_of(file) is not None)
    if not files:
        raise InputError(f"data={str(folder)!r} has no {', '.join(FORMATS)} file; give the folder that holds them")
    return files


def split_of(stem: str) -> str | None:
    """The split that a file's name is, such as "train" or "test-00000-of-00001", or has as a word in it ("gsm8k_train")."""
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word]
    named = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return named[0] if len(set(named)) == 1 else None


def local_splits(path: Path, reader: Reader | None = None) -> dict[str, list[Row]]:
    """Rows by split of a file, or of a folder's files by their names; a file alone that names no split is split "all".

    Files named for a split and nothing else ("train.jsonl", "test-00000-of-00002.parquet") go before others ("train_socratic").
    """
    if not path.is_dir() and format_of(path) is None:
        raise InputError(f"data={str(path)!r} is no data file; use {', '.join(FORMATS)}, or one of the first three with .gz")
    files = files_in(path) if path.is_dir() else [path]
    if len(files) == 1:
        return {split_of(stem_of(files[0])) or "all": read_file(files[0], reader)}
    exact = [file for file in files if re.fullmatch(rf"(train|validation|valid|dev|test)({SHARD})?", stem_of(file).lower())]
    splits: dict[str, list[Row]] = {}
    for file in exact or files:
        split = split_of(stem_of(file))
        if split is None or (split in splits and not re.search(rf"{SHARD}$", stem_of(file))):
            raise InputError(
                f"data={str(path)!r}: it is not clear which split {file.name} is; name files train.jsonl, test.jsonl and so "
                "on, or give one file"
            )
        splits.setdefault(split, []).extend(read_file(file, reader))
    return splits


def hub_splits(name: str, config: str | None, reader: Reader) -> dict[str, list[Row]]:
    """Rows by split of a data set on Hugging Face's hub, through `datasets` and its cache."""
    from datasets import load_dataset

    try:
        found = load_dataset(name, config) if config else load_dataset(name)
    except Exception as error:  # the hub, the cache and the data set each have their own errors
        raise InputError(
            f"data={name!r} is neither a file or folder here nor to be had from Hugging Face's hub "
            f"({next(iter(str(error).strip().splitlines()), type(error).__name__)}); check the spelling and the connection, or "
            "give a local file"
        ) from None
    return {
        split: reader.rows((f"row {number} of {name}, {split}", row) for number, row in enumerate(rows, 1))
        for split, rows in found.items()
    }


def load_splits(
    source: str | None, hub_name: str, hub_config: str | None, reader: Reader | None = None
) -> dict[str, list[Row]]:
    """Rows by split, of a local file or folder where `source` is one, else of the hub (None: the task's own data set)."""
    reader = reader or Reader()
    if source is None:
        return hub_splits(hub_name, hub_config, reader)
    path = Path(source).expanduser()
    if path.exists():
        return local_splits(path, reader)
    if format_of(path) is not None or path.is_absolute() or source.startswith((".", "~")):
        raise InputError(f"data={source!r} is not there; check the path, or leave it out for {hub_name} from the hub")
    return hub_splits(source, hub_config if source == hub_name else None, reader)
