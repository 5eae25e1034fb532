"""Rows of a data set: from Hugging Face's hub, or from files on this machine (JSON lines, JSON, parquet)."""

import json
import re
from pathlib import Path
from typing import Any

from rlhf_lib.args import InputError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")
SPLIT_WORDS = {"train": "train", "validation": "validation", "valid": "validation", "dev": "validation", "test": "test"}


def read_file(file: Path) -> list[Row]:
    """All rows of one file: JSON lines, a JSON list (or an object that holds one list), or parquet."""
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        found = json.loads(text)
    except (OSError, ValueError) as error:  # pyarrow's and JSON's errors are ValueErrors
        raise InputError(f"data file {file} cannot be read ({str(error).splitlines()[0]}); get it again") from None
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = lists[0] if len(lists) == 1 else found
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise InputError(
            f"data file {file} holds no list of rows; a row is an object such as {{'question': ..., 'answer': ...}}"
        )
    return found


def files_in(folder: Path) -> list[Path]:
    """The data files of a folder, in order of their names."""
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise InputError(f"data={str(folder)!r} has no {', '.join(SUFFIXES)} file; give the folder that holds them")
    return files


def split_of(stem: str) -> str | None:
    """The split that a file's name is, such as "train" or "test-00000-of-00001", or has as a word in it ("gsm8k_train")."""
    words = [word for word in re.split(r"[^a-z]+", stem.lower()) if word]
    named = [SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS]
    return named[0] if len(set(named)) == 1 else None


def local_splits(path: Path) -> dict[str, list[Row]]:
    """Rows by split of a file, or of a folder's files by their names; a file alone that names no split is split "all".

    Files named for a split and nothing else ("train.jsonl", "test-00000-of-00002.parquet") go before others ("train_socratic").
    """
    if not path.is_dir():
        if path.suffix not in SUFFIXES:
            raise InputError(f"data={str(path)!r} is no data file; use {', '.join(SUFFIXES)}")
        return {split_of(path.stem) or "all": read_file(path)}
    files = files_in(path)
    if len(files) == 1:
        return {split_of(files[0].stem) or "all": read_file(files[0])}
    exact = [file for file in files if re.fullmatch(r"(train|validation|valid|dev|test)(-\d+-of-\d+)?", file.stem.lower())]
    splits: dict[str, list[Row]] = {}
    for file in exact or files:
        split = split_of(file.stem)
        if split is None or (split in splits and not re.search(r"-\d+-of-\d+$", file.stem)):
            raise InputError(
                f"data={str(path)!r}: it is not clear which split {file.name} is; name files train.jsonl, test.jsonl and so "
                "on, or give one file"
            )
        splits.setdefault(split, []).extend(read_file(file))
    return splits


def hub_splits(name: str, config: str | None) -> dict[str, list[Row]]:
    """Rows by split of a data set on Hugging Face's hub, through `datasets` and its cache."""
    from datasets import load_dataset

    try:
        found = load_dataset(name, config) if config else load_dataset(name)
    except Exception as error:  # the hub, the cache and the data set each have their own errors
        raise InputError(
            f"data={name!r} is neither a file or folder here nor to be had from Hugging Face's hub "
            f"({str(error).strip().splitlines()[0]}); check the spelling and the connection, or give a local file"
        ) from None
    return {split: list(rows) for split, rows in found.items()}


def load_splits(source: str | None, hub_name: str, hub_config: str | None) -> dict[str, list[Row]]:
    """Rows by split, of a local file or folder where `source` is one, else of the hub (None: the task's own data set)."""
    if source is None:
        return hub_splits(hub_name, hub_config)
    path = Path(source).expanduser()
    if path.exists():
        return local_splits(path)
    if path.suffix in SUFFIXES or path.is_absolute() or source.startswith((".", "~")):
        raise InputError(f"data={source!r} is not there; check the path, or leave it out for {hub_name} from the hub")
    return hub_splits(source, hub_config if source == hub_name else None)
