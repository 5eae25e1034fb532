"""Rows of a data set: from Hugging Face's hub, or from files on this machine (JSON lines, JSON, parquet)."""

import json
from pathlib import Path
from typing import Any

from rlhf_lib.args import InputError

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".parquet")


def read_file(file: Path) -> list[Row]:
    """All rows of one file: JSON lines, a JSON list (or an object that holds one list), or parquet."""
    try:
        if file.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
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


def local_splits(path: Path) -> dict[str, list[Row]]:
    """Rows by split, which a file's name tells: "train-00000.parquet" is train; a file that names none is split "all"."""
    splits: dict[str, list[Row]] = {}
    for file in files_in(path) if path.is_dir() else [path]:
        if file.suffix not in SUFFIXES:
            raise InputError(f"data={str(file)!r} is no data file; use {', '.join(SUFFIXES)}")
        name = file.stem.lower()
        split = next((split for split in ("train", "validation", "valid", "dev", "test") if split in name), "all")
        split = {"valid": "validation", "dev": "validation"}.get(split, split)
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
