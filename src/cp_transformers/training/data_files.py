# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The data of every task: files, and data sets by name."""

import glob
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DownloadConfig, Features, Value, load_dataset
from datasets.exceptions import DatasetGenerationError

from .digits import load_digits
from .film_reviews import load_film_reviews, load_review_texts


# Real data from packages, by the names that stand for them.
PACKAGED = {"film-reviews": load_film_reviews, "review-texts": load_review_texts, "digits": load_digits}
# Of so many texts one is held out, where there is one file to train and to evaluate on.
HELD_OUT = 20
EXTENSIONS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv", ".txt": "text"}


def load_file(path: str | os.PathLike) -> Dataset:
    """The rows of a `.parquet`, `.jsonl`, `.csv` or `.txt` file; of the last, each line as `text`. The fields of a
    `.csv` file are texts, as they stand there.

    Raises:
        ValueError: the file is empty, is not what its name says, or has another kind of name.
        FileNotFoundError: it is not there.
    """
    path = Path(path)
    kind = EXTENSIONS.get(path.suffix)
    if kind is None:
        raise ValueError(f"{path} must be a {', '.join(EXTENSIONS)} file.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        options: dict[str, Any] = {}
        if kind == "csv":  # as it stands there: or "null" would be no sentence, and 01 the number 1
            options = {"keep_default_na": False, "features": Features(dict.fromkeys(_columns(path), Value("string")))}
        return load_dataset(kind, data_files=glob.escape(str(path)), split="train", **options)
    except (DatasetGenerationError, StopIteration, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as {kind}, or is empty: {_in_short(error.__cause__ or error)}"
        ) from error


def _in_short(error: BaseException) -> str:
    """The first 200 characters of an error's message, on one line."""
    return " ".join(str(error).split())[:200]


def _columns(path: Path) -> list[str]:
    """The names of a .csv file's columns. Raises a ValueError where the rows have more fields than the header: pandas
    takes the first for their names, and all others for those of the column before."""
    first = pd.read_csv(path, nrows=1)
    if len(first) and not isinstance(first.index, pd.RangeIndex):
        raise ValueError(f"its header names {first.shape[1]} columns, and its first row has more fields")
    return list(first.columns)


def load_by_name(
    name: str, config_name: str | None, split: str, streaming: bool = False, instead: str = "--data_dir"
) -> Any:
    """A split of a data set on the Hub, or of one of [`PACKAGED`].

    Raises:
        OSError: the Hub cannot be reached, or the data set is not there or may not be read.
        ValueError: it has no such configuration or split.
        ImportError: one of [`PACKAGED`] needs a package that is not installed.
    """
    if name in PACKAGED:
        data = PACKAGED[name]()
        if split not in data:
            raise ValueError(f"{name} has no split {split}; it has {', '.join(data)}.")
        return data[split].to_iterable_dataset() if streaming else data[split]
    try:
        return load_dataset(
            name, config_name, split=split, streaming=streaming, download_config=DownloadConfig(max_retries=3)
        )
    except DatasetGenerationError as error:
        raise ValueError(f"{name} cannot be read: {_in_short(error.__cause__ or error)}") from error
    except (ConnectionError, OSError) as error:
        cause = _in_short(error)
        hint = ""
        if "gated" in cause.lower() or "401" in cause:
            hint = f" Accept its terms at https://huggingface.co/datasets/{name}, then log in with `hf auth login`."
        raise OSError(
            f"{name} cannot be fetched from the Hub ({cause}); check the network and the name, or give the data as "
            f"files with {instead}.{hint}"
        ) from error


def holds_out(options: Mapping[str, Any]) -> bool:
    """Whether a run with these options, see [`resolve`][cp_transformers.training.arguments.resolve], holds some of the
    texts that it trains on out, since it evaluates and has no other file for that."""
    evaluates = options.get("do_eval") or options.get("eval_strategy", "no") != "no"
    has_one_file = options.get("train_file") and not options.get("validation_file")
    return bool(options.get("do_train") and evaluates and has_one_file)
