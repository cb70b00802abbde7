# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The refusals of `cp-transformers mlm`."""

import json
import sys
from pathlib import Path

import pytest
from datasets import Dataset
from mlm_cases import (
    MODEL,
    QUIET,
    TEXTS,
    TINY,
    TRAIN,
    make_data,
    make_tokenizer,
    make_trained,
    mlm,
    options,
    refusal,
    write,
)
from transformers import CamembertConfig, CamembertForMaskedLM, GPT2Config

from cp_transformers.training.mlm import CONFIGS, PACKED


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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Give the texts by --dataset_name, or by --train_file"),
        (
            ["--train_file", "HERE/few.txt", "--do_eval"],
            "HERE/few.txt has too few texts to hold some out: give others by",
        ),
        (["--train_file", "HERE/numbers.jsonl"], "Column text of HERE/numbers.jsonl has no texts, but int64"),
        (["--validation_file", "HERE/validation.txt"], "Give the texts to train on by --train_file"),
        (["--train_file", "HERE/no.txt"], "There is no file HERE/no.txt"),
        (["--train_file", "HERE/train.doc"], "HERE/train.doc must be a .parquet, .jsonl, .csv, .txt file"),
        (["--train_file", "HERE/train.jsonl"], "has no column text; its columns are number, words"),
        (["--train_file", "HERE/empty.txt"], "HERE/empty.txt"),
        (["--train_file", "HERE/empty.jsonl"], "HERE/empty.jsonl"),
        (["--train_file", "HERE/empty.parquet"], "HERE/empty.parquet"),
        (["--train_file", "HERE/blank.txt"], "HERE/blank.txt has no text"),
        (["--train_file", "HERE/train.txt", "--mlm_probability", "0"], "mlm_probability must be between 0 and 1"),
        (["--train_file", "HERE/train.txt", "--mlm_probability", "1.5"], "mlm_probability must be between 0 and 1"),
        (["--train_file", "HERE/train.txt", "--mlm_probability", "nan"], "mlm_probability must be between 0 and 1"),
        (["--train_file", "HERE/train.txt", "--max_length", "3"], "max_length must be at least 8"),
        (["--train_file", "HERE/train.txt", "--vocab_size", "0"], "vocab_size must be positive"),
        (["--train_file", "HERE/train.txt", "--model_type", "gpt2"], "model_type must be one of cp_bert, bert, "),
        (["--train_file", "HERE/train.txt", "--model_config", "{"], "model_config is not valid JSON"),
        (["--train_file", "HERE/train.txt", "--model_config", "[1]"], "model_config must be a mapping"),
        (["--train_file", "HERE/train.txt", "--streaming", "--max_steps", "-1"], "with --max_steps"),
        (["--train_file", "HERE/train.txt", "--prediction_loss_only", "true"], "prediction_loss_only"),
        (["--dataset_name", "review-texts", "--validation_split", "no", "--do_eval"], "no split no"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_written(args, message, data, tmp_path, capsys, monkeypatch):
    material = tmp_path / "material"
    for split, texts in TEXTS.items():
        write(material, split, texts)
    write(material, "train", TEXTS["train"], "jsonl", column="words")
    for name in ("empty.txt", "empty.jsonl", "empty.parquet", "train.doc"):
        (material / name).touch()
    (material / "blank.txt").write_text("\n  \n")
    (material / "few.txt").write_text("one film\n")
    (material / "numbers.jsonl").write_text('{"text": 1}\n')
    texts = {split: Dataset.from_dict({"text": texts}) for split, texts in TEXTS.items()}
    monkeypatch.setitem(sys.modules["cp_transformers.training.data_files"].PACKAGED, "review-texts", lambda: texts)
    given_args = [each.replace("HERE", str(material)) for each in args]
    common = [*QUIET, *MODEL, *TRAIN, "--output_dir", str(tmp_path / "out")]
    assert message.replace("HERE", str(material)) in refusal(capsys, [*common, *given_args])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model_config", '{"hidden_sise": 16}'], "A cp_bert model has no field hidden_sise"),
        (["--pool_config", '{"pool_rang": 1}'], "A cp_bert model has no field pool_rang"),
        (["--pool_config", '{"pool_placement": "nowhere"}'], "pool_placement"),
        (["--model_config", '{"hidden_size": 15, "num_attention_heads": 2}'], "15"),
        (["--model_config", json.dumps({**TINY, "vocab_size": 9})], "The model has 9 tokens and the tokenizer"),
        (["--max_length", "41"], "The model has 40 positions, fewer than max_length, 41"),
        (["--tokenizer_name", "MATERIAL/maskless"], "has no mask token"),
        (["--tokenizer_name", "MATERIAL/nowhere"], "MATERIAL/nowhere"),
        (["--model_name_or_path", "MATERIAL/nowhere"], "MATERIAL/nowhere"),
        (["--model_name_or_path", "MATERIAL/gpt2", "--tokenizer_name", "MATERIAL/good"], "MATERIAL/gpt2"),
        (["--model_name_or_path", "MATERIAL/resnet", "--tokenizer_name", "MATERIAL/good"], "MATERIAL/resnet"),
    ],
    ids=lambda each: each if isinstance(each, str) else None,
)
def test_a_model_that_does_not_fit_is_refused(more, message, data, tmp_path, tokenizer, capsys):
    tokenizer.save_pretrained(tmp_path / "good")
    tokenizer.save_pretrained(tmp_path / "maskless")
    for path in (tmp_path / "maskless").glob("*config.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "mask_token": None}))
    GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=200).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "resnet").mkdir()
    (tmp_path / "resnet" / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    more = [each.replace("MATERIAL", str(tmp_path)) for each in more]
    output = tmp_path / "out"
    assert message.replace("MATERIAL", str(tmp_path)) in refusal(capsys, options(data, output, *TRAIN, *more))
    assert not [path.name for path in output.glob("*") if path.name in ("results.json", "model.safetensors")]
    assert not list(output.glob("checkpoint-*"))


def test_a_run_that_does_nothing_and_a_new_model_s_evaluation_are_refused(data, tmp_path, capsys):
    output = tmp_path / "out"
    assert "nothing to do" in refusal(capsys, options(data, output))
    assert "A new model has nothing to evaluate" in refusal(capsys, options(data, output, "--do_eval"))
    assert not output.exists()


def test_an_earlier_run_s_results_are_not_overwritten(data, trained, capsys):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert "is of an earlier run" in refusal(capsys, options(data, trained, *TRAIN, "--seed", "9"))
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_a_file_in_the_place_of_the_output_is_kept_and_named(data, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    assert f"{tmp_path / 'out'} is not a folder" in refusal(capsys, options(data, tmp_path / "out", *TRAIN))
    assert (tmp_path / "out").read_text() == "mine"


def test_too_little_room_for_the_checkpoints_is_told_before_training(data, trained, tmp_path, capsys, monkeypatch):
    usage = type("Usage", (), {"free": 2 * (trained / "model.safetensors").stat().st_size})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    more = [*TRAIN, "--save_strategy", "steps"]
    assert "choose another --output_dir, or save less" in refusal(capsys, options(data, tmp_path / "out", *more))
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    mlm(data, tmp_path / "out", *TRAIN)  # without checkpoints it has room


def test_held_out_texts_of_which_nothing_is_masked_are_refused(data, trained, tmp_path, capsys):
    more = ["--validation_file", write(tmp_path, "held", ["a"]), "--mlm_probability", "1e-9"]
    given_args = options(data, tmp_path / "out", "--do_eval", "--model_name_or_path", trained, *more)
    assert "too few" in refusal(capsys, given_args)
    assert not (tmp_path / "out" / "results.json").exists()


def test_rows_are_packed_for_the_families_of_the_table_alone(data, tokenizer, tmp_path, capsys):
    config = CamembertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    CamembertForMaskedLM(config).save_pretrained(tmp_path / "camembert")
    tokenizer.save_pretrained(tmp_path / "camembert")
    args = [*options(data, tmp_path / "out"), "--do_eval", "--model_name_or_path", str(tmp_path / "camembert")]
    assert "give --pack false" in refusal(capsys, args)


@pytest.mark.parametrize("model_type", [name for name in CONFIGS if name not in PACKED])
def test_rows_are_not_packed_for_families_whose_attention_cannot_be_told(model_type, data, tmp_path, capsys):
    message = refusal(capsys, [*options(data, tmp_path / "out"), *TRAIN, "--model_type", model_type])
    assert f"not {model_type}: give --pack false" in message and not (tmp_path / "out").exists()


def test_held_out_texts_that_are_too_few_are_refused_before_training(data, tmp_path, capsys):
    few = write(tmp_path / "few", "validation", ["a"])
    message = refusal(capsys, [*options(data, tmp_path / "out"), *TRAIN, "--do_eval", "--validation_file", str(few)])
    assert "No token of the held-out texts is masked" in message
    assert not (tmp_path / "out" / "model.safetensors").exists()
