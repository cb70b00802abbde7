# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Texts without labels: rows that lose no token, and texts that are held out or left out."""

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from mlm_cases import (
    MAX_LENGTH,
    MODEL,
    QUIET,
    TEXTS,
    TRAIN,
    encoded,
    make_data,
    make_tokenizer,
    make_trained,
    options,
    pieces,
    refusal,
    results_of,
    sentences,
    write,
)
from transformers import BertJapaneseTokenizer, TrainingArguments

from cp_transformers.cli import main as cli
from cp_transformers.training.mlm import MlmArguments, make_tokenizer as load_or_train_tokenizer
from cp_transformers.training.texts import pack


packed_or_not = pytest.mark.parametrize("packed", [True, False], ids=["packed", "unpacked"])


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """See [`mlm_cases.make_data`]."""
    return make_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, cache) -> Path:
    """See [`mlm_cases.make_trained`]."""
    return make_trained(data, tmp_path_factory.mktemp("trained") / "out")


@settings(deadline=None)
@given(st.lists(st.integers(2, 16), max_size=30))
def test_packing_loses_no_text_and_overfills_no_row(lengths):
    texts = [([number] * length, [number] * length) for number, length in enumerate(lengths)]
    rows = pack(texts, 16)
    assert sorted(piece for row in rows for piece in row) == sorted(texts)
    filled = [sum(len(ids) for ids, _ in row) for row in rows]
    assert all(0 < tokens <= 16 for tokens in filled)
    assert all(first + second > 16 for first, second in pairwise(filled))  # else one row would have done


@packed_or_not
@pytest.mark.parametrize("whole_word_mask", [False, True], ids=["tokens", "words"])
def test_rows_hold_every_token_of_every_text_once(packed, whole_word_mask, tokenizer):
    rows = encoded(TEXTS["train"], tokenizer, pack=packed, whole_word_mask=whole_word_mask)
    found = []
    for row in rows:
        assert len(row["input_ids"]) == len(row["segments"]) == len(row["words"]) <= MAX_LENGTH
        assert list(dict.fromkeys(row["segments"])) == list(range(1, max(row["segments"]) + 1))
        for place in pieces(row):
            ids = row["input_ids"][place]
            assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id and len(ids) > 2
            found.append(ids[1:-1])
    texts = [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS["train"]]
    assert Counter(token for ids in found for token in ids) == Counter(token for ids in texts for token in ids)
    if not packed:  # then in order, too
        assert [token for ids in found for token in ids] == [token for ids in texts for token in ids]
    shorter = [tuple(ids) for ids in texts if len(ids) <= MAX_LENGTH - 2]
    assert not Counter(shorter) - Counter(map(tuple, found))
    assert any(max(row["segments"]) > 1 for row in rows) == packed


@packed_or_not
def test_a_tokenizer_in_python_loses_no_token_either(packed, tmp_path):
    kana = [chr(0x3042 + index) for index in range(40)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *kana, *(f"##{each}" for each in kana)]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    kinds = {"word_tokenizer_type": "basic", "subword_tokenizer_type": "character"}
    slow = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), **kinds)
    texts = ["".join(kana), kana[3], "".join(kana[:14]), "".join(kana[:15])]  # the third fills a row
    rows = encoded(texts, slow, pack=packed)
    special = (slow.cls_token_id, slow.sep_token_id)
    found = Counter(token for row in rows for token in row["input_ids"] if token not in special)
    assert found == Counter(token for text in texts for token in slow(text, add_special_tokens=False).input_ids)
    assert packed or [len(row["input_ids"]) for row in rows] == [16, 16, 14, 3, 16, 16, 3]
    arguments = MlmArguments(train_file="texts.txt", tokenizer_name=str(tmp_path / "slow"), whole_word_mask=True)
    slow.save_pretrained(tmp_path / "slow")
    with pytest.raises(ValueError, match="does not tell words apart: leave out --whole_word_mask"):
        load_or_train_tokenizer(arguments, TrainingArguments(str(tmp_path / "out"), use_cpu=True), None)


def test_punctuation_is_a_word_of_its_own(tokenizer):
    (row,) = encoded(["play,play!"], tokenizer, whole_word_mask=True)
    words = [word for word in row["words"] if word >= 0]
    assert len(set(words)) == 4 and row["words"][0] == row["words"][-1] == -1


@pytest.mark.parametrize("extension", ["txt", "jsonl"])
def test_texts_are_held_out_of_a_file_that_is_alone(extension, trained, tmp_path, capsys):
    texts = sentences(200, seed=3)
    file = write(tmp_path / "data", "all", [*texts, *texts], extension)
    more = [*QUIET, *MODEL, *TRAIN, "--train_file", str(file), "--pack", "false", "--tokenizer_name", str(trained)]
    rows = {}
    for name, does in (("both", ["--do_eval"]), ("again", ["--eval_strategy", "epoch"]), ("train", [])):
        output = ["--output_dir", str(tmp_path / name)]
        assert cli(["mlm", *more, *does, *output]) == 0
        rows[name] = results_of(tmp_path / name)["rows"]
    assert rows["both"] == rows["again"] and sum(rows["both"].values()) == rows["train"]["train"] == 400
    assert 2 <= rows["both"]["validation"] < 60 and rows["both"]["validation"] % 2 == 0  # equal texts are together
    shutil.rmtree(tmp_path / "train", ignore_errors=True)
    checkpoints = ["--save_strategy", "steps", "--save_steps", "1", "--output_dir", str(tmp_path / "train")]
    assert cli(["mlm", *more, *checkpoints]) == 0
    message = refusal(capsys, [*more, *checkpoints, "--do_eval", "--resume_from_checkpoint", "last"])
    assert "has trained on other texts" in message


def test_rows_without_a_text_are_counted(data, trained, tmp_path, caplog):
    lines = [{"text": "a film"}, {"text": None}, {"words": "b"}, {"text": "  "}, {"text": "the film"}] * 10
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = ["--tokenizer_name", trained, "--train_file", tmp_path / "train.jsonl"]
    given = options(data, tmp_path / "out", *TRAIN, *more)
    with caplog.at_level("WARNING"):
        assert cli(["mlm", *given]) == 0
    assert f"30 of 50 rows of {tmp_path / 'train.jsonl'} have no text, and are left out." in caplog.text
