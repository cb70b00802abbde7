# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Texts without labels: from files or data sets, with a part held out, as rows of tokens of one length at most.

The options that the functions here take are those of `mlm`, see
[`MlmArguments`][cp_transformers.training.mlm.MlmArguments].
"""

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.utils import logging

from .arguments import resolve
from .data_files import HELD_OUT, holds_out, load_by_name, load_file


logger = logging.get_logger(__name__)


def check_files(arguments: Any, training: TrainingArguments) -> None:
    """Refuses files of texts that are not there, or not given where nothing else is.

    Raises:
        ValueError, FileNotFoundError: see above.
    """
    for file in (arguments.train_file, arguments.validation_file):
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"There is no file {file}.")
    if arguments.train_file is None and arguments.validation_file is None:
        return
    if training.do_train and arguments.train_file is None:
        raise ValueError("Give the texts to train on by --train_file.")
    if training.do_eval and arguments.validation_file is None and not training.do_train:
        raise ValueError("Give the texts to evaluate on by --validation_file.")


def load_texts(arguments: Any, training: TrainingArguments) -> dict[str, Dataset | IterableDataset]:
    """The texts of the splits that the run needs, `train` and `validation`, in a column `text`. Where there is one
    file for both, one text in [`HELD_OUT`] of it is for `validation`.

    Raises:
        ValueError: a split has no texts.
        OSError: they cannot be read.
    """
    texts = {}
    needed = {"train": training.do_train, "validation": training.do_eval or training.eval_strategy != "no"}
    from_one = holds_out(resolve(arguments, training))
    for split in (split for split, does in needed.items() if does):
        file = arguments.train_file if from_one else getattr(arguments, f"{split}_file")
        data, where = _read_texts(arguments, split, file)
        if from_one:
            data = data.filter(partial(_is_held_out, held_out=split == "validation"), input_columns="text")
        limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
        if limit is not None:
            data = data.take(limit) if isinstance(data, IterableDataset) else data.select(range(min(limit, len(data))))
        if split == "validation" and isinstance(data, IterableDataset):
            data = Dataset.from_dict({"text": [row["text"] for row in data]}, Features({"text": Value("string")}))
        texts[split] = data.filter(_is_text, input_columns="text")
        if isinstance(data, Dataset):
            _report(where, len(data), len(texts[split]), from_one, split, training.process_index == 0)
    return texts


def _read_texts(arguments: Any, split: str, file: str | None) -> tuple[Dataset | IterableDataset, str]:
    """The texts of a file, or else of a split of the data set, and where they are from.

    Raises:
        ValueError: there is no such column, or it has other things than texts.
        OSError: they cannot be read.
    """
    if file is not None:
        data, where = load_file(file), file
        if arguments.streaming and split == "train":
            data = data.to_iterable_dataset()
    else:
        name = getattr(arguments, f"{split}_split")
        data = load_by_name(
            str(arguments.dataset_name),
            arguments.dataset_config_name,
            name,
            streaming=arguments.streaming,  # of both, or all splits would be downloaded for the one
            instead="--train_file and --validation_file",
        )
        where = f"{name} of {arguments.dataset_name}"
    columns, column = data.column_names or [], arguments.text_column
    if columns and column not in columns:
        raise ValueError(f"{where} has no column {column}; its columns are {', '.join(columns)}.")
    kind = getattr((data.features or {}).get(column), "dtype", "string")
    if kind not in ("string", "large_string", "null"):
        raise ValueError(f"Column {column} of {where} has no texts, but {kind}; choose another --text_column.")
    data = data.select_columns(column)
    return data if column == "text" else data.rename_column(column, "text"), where


def _report(where: str, rows: int, texts: int, from_one: bool, split: str, aloud: bool) -> None:
    """Says how many rows are left out, since they have no text (the empty lines of a .txt file are no rows), and how
    many are held out.

    Raises:
        ValueError: there is no text at all.
    """
    if not texts:
        few = "too few texts to hold some out: give others by --validation_file" if from_one else "no text"
        raise ValueError(f"{where} has {few}.")
    if aloud and texts < rows and not where.endswith(".txt"):
        logger.warning(f"{rows - texts} of {rows} rows of {where} have no text, and are left out.")
    if aloud and from_one and split == "validation":
        logger.warning(f"{texts} texts of {where} are held out; give others by --validation_file.")


def _is_held_out(text: Any, held_out: bool) -> bool:
    """Whether a text is one of those held out, or, if they are not wanted, of the others. Equal texts are together."""
    digest = hashlib.blake2b(str(text).strip().encode("utf-8", "surrogatepass"), digest_size=7).digest()
    return (int.from_bytes(digest, "big") % HELD_OUT == 0) == held_out


def _is_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip())


def encode(data: Dataset | IterableDataset, arguments: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Rows of at most `max_length` tokens: `input_ids`, `segments` (the number of the text in its row, from 1) and
    `words` (the number of the word in its row, -1 for special tokens; each token is its own unless whole words are to
    be masked)."""

    # Not `arguments`: what is encoded is found again in the cache unless one of these has changed. And a copy of the
    # tokenizer: how one was called is saved with it.
    max_length, packed, whole_words = arguments.max_length, arguments.pack, arguments.whole_word_mask
    tokenizer = copy.deepcopy(tokenizer)

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        columns: dict[str, list] = {"input_ids": [], "segments": [], "words": []}
        if not batch["text"]:
            return columns
        encoded = tokenizer(batch["text"], truncation=False, return_special_tokens_mask=True, verbose=False)
        pieces = []
        for index, (ids, special) in enumerate(zip(encoded["input_ids"], encoded["special_tokens_mask"])):
            words = encoded.word_ids(index) if whole_words else range(len(ids))
            pieces += split_text(ids, [-1 if each else word for each, word in zip(special, words)], max_length)
        rows = pack(pieces, max_length) if packed else [[piece] for piece in pieces]
        for row in rows:
            columns["input_ids"].append([token for ids, _ in row for token in ids])
            columns["segments"].append([number for number, (ids, _) in enumerate(row, start=1) for _ in ids])
            before, joined = 0, []
            for _, words in row:
                joined += [word if word < 0 else word + before for word in words]
                before += max(words) + 1
            columns["words"].append(joined)
        return columns

    small = {"input_ids": List(Value("int32")), "segments": List(Value("int16")), "words": List(Value("int16"))}
    options = {} if isinstance(data, IterableDataset) else {"num_proc": arguments.preprocessing_num_workers}
    return data.map(encode_batch, batched=True, remove_columns="text", features=Features(small), **options)


def split_text(ids: list[int], words: list[int], max_length: int) -> list[tuple[list[int], list[int]]]:
    """The pieces of a text, of at most `max_length` tokens, each with the special tokens around the text; none of its
    tokens is lost.

    They are cut here: tokenizers that are written in Python give the first piece alone, and tokenizers 0.23.1 and
    0.23.2 lose some of the others.

    Args:
        ids: of the whole text's tokens.
        words: the numbers of their words, -1 for special tokens; those of each piece are counted from 0.
    """
    inside = [place for place, word in enumerate(words) if word >= 0]
    if not inside:
        return []
    start, end = inside[0], inside[-1] + 1
    room = max_length - start - (len(ids) - end)
    pieces = []
    for place in range(start, end, room):
        chosen = slice(place, min(place + room, end))
        first = min((word for word in words[chosen] if word >= 0), default=0)
        numbers = [word if word < 0 else word - first for word in words[chosen]]
        pieces.append((ids[:start] + ids[chosen] + ids[end:], words[:start] + numbers + words[end:]))
    return pieces


def pack(pieces: Sequence[tuple[list[int], list[int]]], max_length: int) -> list[list[tuple[list[int], list[int]]]]:
    """Puts each piece into the first row that has room for it."""
    rows: list[list[tuple[list[int], list[int]]]] = []
    room: list[int] = []
    for piece in pieces:
        length = len(piece[0])
        place = next((index for index, left in enumerate(room) if left >= length), None)
        if place is None:
            rows.append([])
            room.append(max_length)
            place = len(rows) - 1
        rows[place].append(piece)
        room[place] -= length
    return rows
