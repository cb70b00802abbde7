# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The benchmark of checkpoints of one's own: what it runs and writes."""

import csv

import pytest
import torch
from conversion_cases import tiny_stock
from model_cases import MODELS, over
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from cp_transformers.benchmark.checkpoints import load, make_inputs, run_checkpoints
from cp_transformers.benchmark.models import COLUMNS
from cp_transformers.checkpoints.conversion import convert_checkpoint
from cp_transformers.cli import main as cli


@pytest.fixture
def folders(tmp_path):
    """A stock classifier, cut without pooling, and cut with it."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    config = BertConfig(num_hidden_layers=3, max_position_embeddings=20, **sizes)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "stock")
    convert_checkpoint(tmp_path / "stock", tmp_path / "cut", layers="first:2", pool_layers=[])
    convert_checkpoint(tmp_path / "stock", tmp_path / "cp", layers="first:2")
    return [str(tmp_path / name) for name in ("stock", "cut", "cp")]


def test_the_command_measures_checkpoints_against_the_first(folders, tmp_path, capsys, monkeypatch):
    seen = []
    forward = BertForSequenceClassification.forward
    monkeypatch.setattr(
        BertForSequenceClassification,
        "forward",
        lambda model, input_ids, **more: seen.append(tuple(input_ids.shape)) or forward(model, input_ids, **more),
    )
    options = ["--batch", "2", "--length", "7", "--rounds", "2", "--threads", "1"]
    assert cli(["benchmark", "--models", *folders, *options, "--output", str(tmp_path / "out.csv")]) == 0
    said = capsys.readouterr().out
    assert all(said.count(f"{folder}: ") == 1 for folder in folders) and said.count(" texts a second") == 3
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert list(rows[0]) == COLUMNS and not (tmp_path / "out.png").exists()
    assert [(row["model"], row["pass"]) for row in rows] == [
        (folder, step) for step in ("forward", "training") for folder in folders
    ]
    assert [(row["layers"], row["tokens"], row["batch"]) for row in rows[:3]] == [(n, "7", "2") for n in "322"]
    assert rows[0]["ratio"] == "1.0" and float(rows[2]["gflops"]) > float(rows[1]["gflops"]) > 0
    assert int(rows[2]["parameters"]) > int(rows[1]["parameters"]) and set(seen) == {(2, 7)}


def test_without_a_length_texts_are_as_long_as_all_models_have_positions(folders, tmp_path):
    rows = run_checkpoints(tmp_path / "out.csv", folders[:1], batch=1, length=None, rounds=2, threads=1)
    assert {row["tokens"] for row in rows} == {20}


@over(MODELS)
def test_every_class_is_loaded_as_it_was_saved_and_runs_on_its_inputs(case, tmp_path):
    """But for those that read several texts at once, for backbones, and for models that no Auto class of upstream's
    names, which are measured bare."""
    for name, model in (("cp", case.fresh_model()), ("stock", case.stock_class(case.stock_config()))):
        model.save_pretrained(tmp_path / name)
        loaded = load(str(tmp_path / name)).eval()
        bare = ("ForMultipleChoice", "Backbone", "BeitForMaskedImageModeling", "WithProjection")
        bare = type(model).__name__.endswith(bare)
        assert isinstance(loaded, PreTrainedModel) and (bare or type(loaded) is type(model))
        length = 5 if loaded.main_input_name == "input_ids" else None
        inputs = make_inputs(loaded, 2, length)
        with torch.no_grad():
            assert len(loaded(**inputs)[0]) == 2
        if length is None and hasattr(model.config, "image_size"):
            size = model.config.image_size
            assert list(inputs["pixel_values"].shape[2:]) == ([size, size] if isinstance(size, int) else size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--models", "stock", "stock"], "--models names a checkpoint twice"),
        (["--models", "stock", "vit"], "Some of the models read texts and others images"),
        (["--models", "vit", "--length", "5"], "--length is for texts"),
        (["--models", "stock", "--length", "21"], "has positions for 20 tokens"),
        (["--models", "stock", "--batch", "0"], "--batch is for --models, and must be at least 1"),
        (["--length", "5"], "--length is for --models"),
        (["--models", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(options, words, folders, tmp_path, capsys, monkeypatch):
    tiny_stock("ViTModel").save_pretrained(tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    assert cli(["benchmark", *options, "--output", "out.csv"]) == 1
    assert words in capsys.readouterr().err and not (tmp_path / "out.csv").exists()
