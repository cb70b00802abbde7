# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The data of `cp-transformers glue`: files of GLUE's tasks, labels of checkpoints, and data sets of one's own."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from glue_cases import (
    ALL,
    DECIDING,
    LABELS,
    QUIET,
    SERVER_FILES,
    SPLITS,
    TRAIN,
    equal_weights,
    glue,
    options,
    predictions,
    refusal,
    results_of,
    rows,
    save_model,
    weights,
    write,
    write_task,
)
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainingArguments,
)

from cp_transformers import CPBertForSequenceClassification, CPBertModel
from cp_transformers.cli import main as cli
from cp_transformers.training import data_files
from cp_transformers.training.data_files import load_file
from cp_transformers.training.glue import load_task_config
from cp_transformers.training.glue_data import GlueArguments, Task, load_task


# Data


def test_every_kind_of_file_gives_the_same_results(tmp_path, material):
    runs = []
    for extension in ("parquet", "jsonl", "csv"):
        data, output = write_task(tmp_path / extension / "data", "stsb", extension), tmp_path / extension / "out"
        runs.append((glue("stsb", material / "cp", data, output, *ALL), predictions(output, "STS-B")))
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("kind", ["strings", "upper case", "floats", "digits", "classes", "classes in another order"])
def test_labels_may_be_numbers_names_or_classes(kind, material, tmp_path):
    names = LABELS["mnli"]
    shown = {
        "strings": lambda label: names[label],
        "upper case": lambda label: f" {names[label].upper()}",
        "floats": float,
        "digits": str,
        "classes": lambda label: label,
        "classes in another order": lambda label: 2 - label,
    }[kind]
    features = None
    if kind.startswith("classes"):
        text, number = Value("string"), Value("int64")
        classes = ClassLabel(names=names if kind == "classes" else names[::-1])
        features = Features({"premise": text, "hypothesis": text, "label": classes, "idx": number})
    for split in ("validation_matched", "validation_mismatched"):
        examples = [{**row, "label": shown(row["label"])} for row in rows("mnli", split, 12)]
        write(tmp_path / "data", split, examples, "parquet", features)
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, names)
    metrics = glue("mnli", model, tmp_path / "data", tmp_path / "out", "--do_eval")
    assert metrics == glue("mnli", model, material / "mnli", tmp_path / "plain", "--do_eval")


def test_test_files_need_no_labels(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification)
    with_labels = rows("sst2", "test", 6)  # -1, as on the Hub
    write(tmp_path / "data", "test", [{"sentence": row["sentence"]} for row in with_labels])
    glue("sst2", model, tmp_path / "data", tmp_path / "without", "--do_predict")
    glue("sst2", model, material / "sst2", tmp_path / "with", "--do_predict")
    assert predictions(tmp_path / "without", "SST-2") == predictions(tmp_path / "with", "SST-2")


def test_only_the_first_samples_are_used_if_so_asked(material, tmp_path):
    limits = ["--max_train_samples", "10", "--max_eval_samples", "5", "--max_predict_samples", "3"]
    metrics = glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *limits)
    for split, count in (("train", 10), ("validation", 5), ("test", 3)):
        write(tmp_path / "few", split, rows("sst2", split, count))
    assert metrics == glue("sst2", material / "cp", tmp_path / "few", tmp_path / "few_out", *ALL)
    assert equal_weights(tmp_path / "out", tmp_path / "few_out")
    assert len(predicted := predictions(tmp_path / "out", "SST-2")) == 3
    assert predicted == predictions(tmp_path / "few_out", "SST-2")


def test_texts_are_cut_off_at_the_maximal_length(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification)
    metrics = glue("sst2", model, material / "sst2", tmp_path / "out", "--do_eval", "--max_length", "4")
    cut = [
        {**row, "sentence": " ".join(row["sentence"].split()[:2])} for row in rows("sst2", "validation", 12)
    ]  # and [CLS], [SEP]
    write(tmp_path / "cut", "validation", cut)
    assert metrics == glue("sst2", model, tmp_path / "cut", tmp_path / "cut_out", "--do_eval")


def test_texts_are_cut_off_where_the_tokenizer_or_the_model_ends(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification)
    expected = glue("sst2", model, material / "sst2", tmp_path / "out", "--do_eval", "--max_length", "4")
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 4}))
    assert glue("sst2", model, material / "sst2", tmp_path / "cut", "--do_eval") == expected


@pytest.mark.parametrize("ends", ["--max_length", "limit of the tokenizer", "positions"])
def test_how_many_texts_are_cut_is_said_and_by_what(ends, material, tmp_path, caplog):
    fields = {"max_position_embeddings": 6} if ends == "positions" else {}
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, **fields)
    if ends.startswith("limit"):
        file = model / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 6}))
    more = ["--max_length", "6"] if ends == "--max_length" else []
    with caplog.at_level("WARNING"):
        glue("sst2", model, material / "sst2", tmp_path / "out", *TRAIN, "--do_eval", *more)
    for split, count in (("train", 24), ("validation", 12)):
        lengths = [len(row["sentence"].split()) + 2 for row in rows("sst2", split, count)]
        assert 0 < (cut := sum(length > 6 for length in lengths)) < sum(length >= 6 for length in lengths)
        (message,) = [each for each in caplog.messages if f"of {count} rows of {split} are cut" in each]
        assert message.startswith(f"{cut} of {count} rows") and "after 6 tokens" in message and ends in message
    caplog.clear()
    with caplog.at_level("WARNING"):
        glue("sst2", material / "cp", material / "sst2", tmp_path / "whole", *TRAIN, "--max_length", "10")
    assert not [each for each in caplog.messages if "are cut" in each]


def test_what_a_tokenizer_was_called_with_is_not_saved_with_it(material, tmp_path):
    glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, "--max_length", "4")
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (material / "cp", tmp_path / "out"))
    assert after.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()
    assert after.model_max_length == before.model_max_length


# The checkpoint's labels


@pytest.mark.parametrize(
    "does", [["--do_eval", "--do_predict"], [*ALL, "--learning_rate", "1e-4"]], ids=["evaluation", "training"]
)
def test_the_order_of_the_checkpoint_s_labels_does_not_matter(does, material, tmp_path):
    canonical = save_model(tmp_path / "canonical", CPBertForSequenceClassification, LABELS["mnli"])
    order = [2, 0, 1]
    other = save_model(tmp_path / "other", CPBertForSequenceClassification, [LABELS["mnli"][i].upper() for i in order])
    model = AutoModelForSequenceClassification.from_pretrained(canonical)
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order])
        model.classifier.bias.copy_(model.classifier.bias[order])
    model.config.id2label = AutoModelForSequenceClassification.from_pretrained(other).config.id2label
    model.save_pretrained(other)
    runs = []
    for checkpoint in (canonical, other):
        output = tmp_path / f"{checkpoint.name}_out"
        metrics = glue("mnli", checkpoint, material / "mnli", output, *does)
        runs.append((metrics, [predictions(output, name) for name in SERVER_FILES["mnli"]]))
    assert runs[1][1] == runs[0][1]
    for split in runs[0][0]:
        assert runs[1][0][split] == pytest.approx(runs[0][0][split], abs=1e-5)
    assert len({each for name in runs[0][1] for each in name}) > 1  # or the order could not be seen


def test_unnamed_labels_are_taken_in_order(material, tmp_path):
    named = save_model(tmp_path / "named", CPBertForSequenceClassification, LABELS["rte"])
    unnamed = save_model(tmp_path / "unnamed", CPBertForSequenceClassification)
    assert equal_weights(named, unnamed)
    metrics = glue("rte", unnamed, material / "rte", tmp_path / "out", "--do_eval", "--do_predict")
    assert metrics == glue("rte", named, material / "rte", tmp_path / "named_out", "--do_eval", "--do_predict")
    assert predictions(tmp_path / "out", "RTE") == predictions(tmp_path / "named_out", "RTE")


def test_a_new_head_replaces_one_of_another_size(material, tmp_path):
    foreign = save_model(tmp_path / "mnli", CPBertForSequenceClassification, LABELS["mnli"])
    glue("sst2", foreign, material / "sst2", tmp_path / "out", *ALL, "--new_head")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert list(model.config.id2label.values()) == LABELS["sst2"] and model.classifier.out_features == 2


def test_a_new_head_replaces_one_of_the_same_size(material, tmp_path):
    foreign = save_model(tmp_path / "cola", CPBertForSequenceClassification, LABELS["cola"])
    glue("sst2", foreign, material / "sst2", tmp_path / "out", *TRAIN, "--new_head", "--learning_rate", "1e-12")
    difference = weights(foreign)["classifier.weight"] - weights(tmp_path / "out")["classifier.weight"]
    assert difference.abs().max() > 1e-3


def test_a_new_head_may_be_one_for_numbers(material, tmp_path):
    foreign = save_model(tmp_path / "mnli", CPBertForSequenceClassification, LABELS["mnli"])
    metrics = glue("stsb", foreign, material / "stsb", tmp_path / "out", *ALL, "--new_head")
    assert list(metrics["validation"]) == ["loss", "pearson", "spearman"]


# Data sets of one's own


TEXT = ["--text_columns", "text"]
PAIR = ["--text_columns", "first", "second"]


def own_rows(split: str, count: int, shown=lambda label: DECIDING[label], pair: bool = False, column: str = "label"):
    """Examples where a word decides which of two labels `shown` gives."""
    examples = []
    for row in rows("mrpc" if pair else "sst2", split, count):
        row = {**row, "label": int("good" in " ".join(str(value) for value in row.values()).split())}
        texts = {"first": row["sentence1"], "second": row["sentence2"]} if pair else {"text": row["sentence"]}
        examples.append({**texts, column: shown(row["label"])})
    return examples


def write_own(
    folder: Path, shown=lambda label: DECIDING[label], extension: str = "jsonl", features=None, **more
) -> Path:
    for split, count in SPLITS.items():
        write(folder, split, own_rows(split, count, shown, **more), extension, features)
    return folder


def own_options(model: Path, data: Path, output: Path, *more) -> list[str]:
    return options("none", model, data, output, *more)[2:]


def own(model: Path, data: Path, output: Path, *more) -> dict:
    assert cli(["glue", *own_options(model, data, output, *more)]) == 0
    return results_of(output)["metrics"]


CLASSES = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
KINDS = {
    "strings": (lambda label: ["bad", "good"][label], None, ["bad", "good"]),
    "classes": (lambda label: label, CLASSES, ["bad", "good"]),
    "numbers": (lambda label: [-3, 10][label], None, ["-3", "10"]),
    "truth": (bool, None, ["False", "True"]),
    "floats": (lambda label: [1.0, 2.0][label], None, ["1", "2"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_are_found_learned_and_found_again_in_the_checkpoint(kind, tmp_path):
    shown, features, names = KINDS[kind]
    data = write_own(tmp_path / "data", shown, "parquet", features)
    model = save_model(tmp_path / "model", CPBertModel, initializer_range=0.02)
    learns = ["--max_steps", "40", "--learning_rate", "1e-2"] if kind == "strings" else []
    metrics = own(model, data, tmp_path / "out", *TEXT, *ALL, *learns)
    assert list(metrics) == ["validation"] and list(metrics["validation"]) == ["loss", "accuracy"]
    if learns:
        assert metrics["validation"]["accuracy"] == 1.0
    trained = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert trained.config.id2label == dict(enumerate(names)) and trained.config.num_labels == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    guesses = {}
    for split in ("validation", "test"):
        with torch.no_grad():
            texts = [row["text"] for row in own_rows(split, SPLITS[split])]
            logits = [trained(**tokenizer(text, return_tensors="pt")).logits for text in texts]
        guesses[split] = [int(each.argmax()) for each in logits]
    right = [row["label"] == guess for row, guess in zip(own_rows("validation", 12, int), guesses["validation"])]
    assert metrics["validation"]["accuracy"] == pytest.approx(np.mean(right))
    assert predictions(tmp_path / "out", "test") == [names[guess] for guess in guesses["test"]]
    again = own(tmp_path / "out", data, tmp_path / "again", *TEXT, "--do_eval", "--do_predict")
    assert again == metrics and predictions(tmp_path / "again", "test") == predictions(tmp_path / "out", "test")


def test_unnamed_labels_of_a_checkpoint_are_the_numbers_of_the_data(tmp_path):
    data = write_own(tmp_path / "data", int, "parquet", None)
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, ["LABEL_0", "LABEL_1"])
    found = own(model, data, tmp_path / "out", *TEXT, "--do_eval")
    config = AutoConfig.from_pretrained(model)
    config.id2label, config.label2id = {0: "0", 1: "1"}, {"0": 0, "1": 1}
    config.save_pretrained(model)
    assert found == own(model, data, tmp_path / "named", *TEXT, "--do_eval")


def test_a_checkpoint_for_several_labels_at_once_is_trained_for_one(tmp_path):
    data = write_own(tmp_path / "data", lambda label: ["bad", "good"][label], "parquet", None)
    several = {"problem_type": "multi_label_classification"}
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, ["bad", "good"], **several)
    own(model, data, tmp_path / "out", *TEXT, *ALL)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.problem_type == "single_label_classification"


def test_a_csv_is_read_as_it_stands(tmp_path):
    columns = {"text": ["007", "1e3", "12"], "label": ["01", "1", "1.0"], "true": ["True", "TRUE", "False"]}
    columns |= {"empty": ["", "null", "NA"], "day": ["2024-01-01", "2024-1-2", "1:30"]}
    lines = [",".join(columns), *map(",".join, zip(*columns.values()))]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    assert load_file(tmp_path / "own.csv").to_dict() == columns


def test_columns_of_a_csv_have_one_type_from_the_first_row_to_the_last(tmp_path):
    scores, texts, notes = [1] * 10_000 + [2.5], ["a film"] * 10_001, [3] * 10_000 + [""]
    lines = ["text,label,note", *(f"{text},{score},{note}" for text, score, note in zip(texts, scores, notes))]
    (tmp_path / "validation.csv").write_text("\n".join(lines) + "\n")
    rows = load_file(tmp_path / "validation.csv")
    assert len(rows) == 10_001 and rows[-1]["label"] == "2.5" and rows[0]["label"] == "1"


@pytest.mark.parametrize("does", ["--do_eval", "--do_predict"])
def test_a_checkpoint_knows_labels_that_the_data_lacks(does, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, ["worse", "good", "bad"])
    split, count = {"--do_eval": ("validation", 12), "--do_predict": ("test", 6)}[does]
    examples = [row for row in own_rows(split, count) if row["label"] == "good"]
    write(tmp_path / "data", split, examples)
    metrics = own(model, tmp_path / "data", tmp_path / "out", *TEXT, does)
    network, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(model),
        AutoTokenizer.from_pretrained(model),
    )
    with torch.no_grad():
        logits = [network(**tokenizer(row["text"], return_tensors="pt")).logits for row in examples]
    guesses = [["worse", "good", "bad"][int(each.argmax())] for each in logits]
    if does == "--do_eval":
        assert metrics["validation"]["accuracy"] == pytest.approx(np.mean([guess == "good" for guess in guesses]))
    else:
        assert predictions(tmp_path / "out", "test") == guesses


def test_pairs_of_sentences_and_columns_of_any_name(material, tmp_path):
    data = write_own(tmp_path / "data", pair=True, column="gold")
    metrics = own(material / "cp", data, tmp_path / "out", *PAIR, "--label_column", "gold", *ALL)
    for split, count in SPLITS.items():
        examples = [
            {"sentence1": row["first"], "sentence2": row["second"], "label": DECIDING.index(row["gold"])}
            for row in own_rows(split, count, pair=True, column="gold")
        ]
        write(tmp_path / "mrpc", split, examples)
    expected = glue("mrpc", material / "cp", tmp_path / "mrpc", tmp_path / "mrpc_out", *ALL)
    assert metrics["validation"] == {name: expected["validation"][name] for name in ("loss", "accuracy")}
    assert equal_weights(tmp_path / "out", tmp_path / "mrpc_out")


def test_a_column_named_label_may_be_another(material, tmp_path):
    for split, count in SPLITS.items():
        write(
            tmp_path / "data",
            split,
            [{**row, "label": "x", "idx": 1} for row in own_rows(split, count, column="gold")],
        )
    metrics = own(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, "--label_column", "gold", *ALL)
    assert metrics == own(material / "cp", write_own(tmp_path / "plain"), tmp_path / "plain_out", *TEXT, *ALL)


def test_splits_may_have_other_names(material, tmp_path):
    write_own(tmp_path / "data")
    plain = own(material / "cp", tmp_path / "data", tmp_path / "plain", *TEXT, *ALL)
    for split, name in (("validation", "dev"), ("test", "blind")):
        (tmp_path / "data" / f"{split}.jsonl").rename(tmp_path / "data" / f"{name}.jsonl")
    named = ["--validation_split", "dev", "--test_split", "blind"]
    metrics = own(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, *ALL, *named)
    assert metrics == {"dev": plain["validation"]}
    assert predictions(tmp_path / "out", "blind") == predictions(tmp_path / "plain", "test")


@pytest.mark.parametrize("predicts", [False, True])
def test_the_test_split_may_be_the_one_to_evaluate_on(predicts, material, tmp_path):
    write_own(tmp_path / "data")
    plain = own(material / "cp", tmp_path / "data", tmp_path / "plain", *TEXT, *TRAIN, "--do_eval")
    (tmp_path / "data" / "test.jsonl").unlink()
    (tmp_path / "data" / "validation.jsonl").rename(tmp_path / "data" / "test.jsonl")
    more = ["--validation_split", "test", *(["--do_predict"] if predicts else [])]
    metrics = own(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, *TRAIN, "--do_eval", *more)
    assert metrics == {"test": plain["validation"]}
    assert not predicts or len(predictions(tmp_path / "out", "test")) == 12


def test_each_use_of_a_split_has_its_own_limit(material, tmp_path):
    data = write_own(tmp_path / "data")
    limits = ["--max_eval_samples", "3", "--max_predict_samples", "5"]
    plain = own(material / "cp", data, tmp_path / "plain", *TEXT, *TRAIN, "--do_eval", *limits)
    for split, limit, count in (("test", [], 12), ("train", [], 24), ("train", limits[2:], 5)):
        output = tmp_path / f"{split} {count}"
        if split == "test":
            (data / "validation.jsonl").rename(data / "test.jsonl")
        else:
            (data / "test.jsonl").write_text((data / "train.jsonl").read_text())
        more = ["--validation_split", split, "--test_split", split, "--do_predict", *limits[:2], *limit]
        metrics = own(material / "cp", data, output, *TEXT, *TRAIN, "--do_eval", *more)
        assert len(predictions(output, split)) == count and equal_weights(output, tmp_path / "plain")
        assert split == "train" or metrics == {"test": plain["validation"]}


def test_numbers_on_a_scale_are_learned_and_evaluated(material, tmp_path):
    for split, count in SPLITS.items():
        examples = rows("stsb", split, count)
        renamed = [{"first": r["sentence1"], "second": r["sentence2"], "grade": r["label"]} for r in examples]
        write(tmp_path / "data", split, renamed)
    given = [*PAIR, "--label_column", "grade", "--regression", "true"]
    smoothing = ["--label_smoothing_factor", "0.1"]  # numbers have no other labels: it is not done, nor recorded
    metrics = own(material / "cp", tmp_path / "data", tmp_path / "out", *given, *ALL, *smoothing)
    assert json.loads((tmp_path / "out" / "training.json").read_text())["options"]["label_smoothing_factor"] == 0.0
    assert metrics == glue("stsb", material / "cp", material / "stsb", tmp_path / "stsb", *ALL)
    assert predictions(tmp_path / "out", "test") == predictions(tmp_path / "stsb", "STS-B")
    again = own(tmp_path / "out", tmp_path / "data", tmp_path / "again", *given, "--do_eval", "--do_predict")
    assert again == metrics


def test_a_data_set_may_be_given_by_its_name(material, tmp_path, monkeypatch):
    parts = {split: Dataset.from_list(own_rows(split, count)) for split, count in SPLITS.items()}
    monkeypatch.setitem(data_files.PACKAGED, "film-reviews", lambda: parts)
    given = own_options(material / "cp", tmp_path, tmp_path / "out", "--dataset_name", "film-reviews", *TEXT, *ALL)
    index = given.index("--data_dir")
    assert cli(["glue", *given[:index], *given[index + 2 :]]) == 0
    files = own(material / "cp", write_own(tmp_path / "data"), tmp_path / "files", *TEXT, *ALL)
    assert results_of(tmp_path / "out")["metrics"] == files
    named = [*given[:index], *given[index + 2 :], "--output_dir", str(tmp_path / "no"), "--validation_split", "dev"]
    assert cli(["glue", *named]) == 1


def test_classes_of_the_validation_split_may_be_in_another_order(material, tmp_path):
    data = write_own(tmp_path / "data", lambda label: label, "parquet", CLASSES)
    metrics = own(material / "cp", data, tmp_path / "out", *TEXT, *TRAIN, "--do_eval")
    other = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad"])})
    write(data, "validation", own_rows("validation", 12, lambda label: 1 - label), "parquet", other)
    assert own(material / "cp", data, tmp_path / "other", *TEXT, *TRAIN, "--do_eval") == metrics
    again = own(tmp_path / "out", data, tmp_path / "again", *TEXT, "--do_eval")
    assert again["validation"] == pytest.approx(metrics["validation"], abs=1e-6)


def task_of(folder: Path) -> tuple[tuple[str, ...] | None, dict[str, list]]:
    """The labels of own data, and those of the rows of each split, as numbers."""
    training = TrainingArguments(str(folder / "out"), do_train=True, do_eval=True, use_cpu=True)
    task, data = load_task(GlueArguments("unused", data_dir=str(folder), text_columns=["text"]), training)
    return task.labels, {split: list(part["label"]) for (_, split), part in data.items()}


def write_labels(folder: Path, extension: str = "parquet", features=None, **splits: list) -> Path:
    for split, labels in splits.items():
        write(folder, split, [{"text": "a film", "label": label} for label in labels], extension, features)
    return folder


def test_a_blank_or_the_case_makes_no_label_of_its_own_where_it_is_clear_which_is_meant(tmp_path):
    data = write_labels(tmp_path, train=["bad", "bad ", "not good"], validation=["Bad", "NOT_GOOD", "not good"])
    assert task_of(data) == (("bad", "not good"), {"train": [0, 0, 1], "validation": [0, 1, 1]})


def test_labels_that_differ_in_case_alone_are_different_labels(tmp_path, caplog):
    labels = ["US", "us", "them"]
    named = Features({"text": Value("string"), "label": ClassLabel(names=labels)})
    classes = write_labels(tmp_path / "classes", "parquet", named, train=[0, 1, 2], validation=[1, 0, 2])
    assert task_of(classes) == (tuple(labels), {"train": [0, 1, 2], "validation": [1, 0, 2]})
    for extension in ("csv", "parquet"):
        with caplog.at_level("WARNING"):
            texts = write_labels(tmp_path / extension, extension, train=labels, validation=labels[::-1])
            assert task_of(texts) == (("US", "them", "us"), {"train": [0, 2, 1], "validation": [1, 2, 0]})
        assert "has the labels 'US', 'us', which are taken for different ones" in caplog.text
        caplog.clear()


def test_a_label_that_may_be_either_of_two_is_refused(tmp_path):
    data = write_labels(tmp_path / "texts", train=["US", "us", "them"], validation=["Us", "them"])
    with pytest.raises(ValueError, match="has the label 'Us' in row 0"):
        task_of(data)
    more = Features({"text": Value("string"), "label": ClassLabel(names=["us", "US", "them"])})
    data = write_labels(tmp_path / "classes", train=["us", "them"])
    write_labels(data, "parquet", more, validation=[0, 1, 2])
    with pytest.raises(ValueError, match="has the label 'US' in row 1"):  # no row of another class is one of us
        task_of(data)


def test_a_checkpoint_s_labels_that_differ_in_case_alone_keep_their_places(tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, ["us", "them", "US"])
    task = Task(("text",), ("US", "them", "us"), (), {})
    assert load_task_config(str(model), task)[1].tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="was trained for the labels us, them, US, but those here are Us, them, uS"):
        load_task_config(str(model), replace(task, labels=("Us", "them", "uS")))


def test_labels_of_a_csv_keep_their_zeros_and_are_sorted_as_numbers(tmp_path):
    data = write_labels(tmp_path, "csv", train=["01", "1", "10", "9"], validation=["1", "01", "9.0", " 10"])
    assert task_of(data) == (("01", "1", "9", "10"), {"train": [0, 1, 3, 2], "validation": [1, 0, 2, 3]})


def test_an_unknown_label_is_refused_with_its_row(material, tmp_path, capsys):
    data = write_own(tmp_path / "data")
    examples = own_rows("validation", 6)
    examples[4]["label"] = "odd"
    path = write(data, "validation", examples)
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert f"{path} has the label 'odd' in row 4 (the first is 0); it must be bad, good." in message


def test_the_numbers_of_named_labels_are_no_labels(material, tmp_path, capsys):
    data = write_own(tmp_path / "data")
    write(data, "validation", own_rows("validation", 6, int))
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert "it must be bad, good." in message


@pytest.mark.parametrize("fault", ["missing", "list", "class"])
def test_what_is_no_label_is_refused(fault, material, tmp_path, capsys):
    data = write_own(tmp_path / "data", int)
    examples, features = own_rows("train", 12, int), None
    if fault == "list":
        examples = [{**row, "label": [row["label"]]} for row in examples]
    else:
        examples[5]["label"] = None if fault == "missing" else -1
        features = CLASSES if fault == "class" else None
    path = write(data, "train", examples, "parquet", features)
    (data / "train.jsonl").unlink()
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert str(path) in message and (fault == "list" or "row 5" in message)


@pytest.mark.parametrize("labels", [["bad", "good", ""], ["bad", "good", " "], ["0.0", "1.0", ""]])
def test_a_blank_is_no_label(labels, material, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        lines = ["text,label", *(f"a film,{label}" for label in labels * 4)]
        (tmp_path / "data" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    given = own_options(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, *TRAIN, "--do_eval")
    message = refusal(capsys, tmp_path / "out", given)
    assert f"{tmp_path / 'data' / 'train.csv'} has the label {labels[2]!r} in row 2" in message


@pytest.mark.parametrize("kind", ["none", "nan"])
def test_a_missing_label_is_not_the_class_of_that_name(kind, material, tmp_path, capsys):
    if kind == "none":
        labels, missing = ["for", "against", "none"], ["for", "none", None]
    else:
        labels, missing = ["nan", "inf"], [float("inf"), float("nan")]
    write(tmp_path / "data", "train", [{"text": "a film", "label": label} for label in labels * 4])
    examples = [{"text": "a film", "label": label} for label in missing]
    path = write(tmp_path / "data", "validation", examples, "parquet")
    given = own_options(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, *TRAIN, "--do_eval")
    row, names = len(missing) - 1, ", ".join(sorted(labels))
    expected = f"{path} has the label {missing[row]!r} in row {row} (the first is 0); it must be {names}."
    assert expected in refusal(capsys, tmp_path / "out", given)


def test_what_is_not_a_number_is_no_label(material, tmp_path, capsys):
    examples = [{"text": "a film", "label": label} for label in (0.0, 1.0, float("nan"), 1.0)]
    path = write(tmp_path / "data", "train", examples, "parquet")
    given = own_options(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, *TRAIN)
    assert f"{path} has the label nan in row 2" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize("features", [None, Features({"text": Value("string"), "label": ClassLabel(names=["good"])})])
def test_a_single_class_is_not_trained_on(features, material, tmp_path, capsys):
    data = write_own(tmp_path / "data", lambda label: "good" if features is None else 0, "parquet", features)
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert f"{data / 'train.parquet'} has only one label, good; training needs two or more." in message


def test_a_few_rows_may_be_of_many_classes(material, tmp_path):
    examples = [{"text": "a film", "label": f"class {index % 15:02d}"} for index in range(20)]
    write(tmp_path / "data", "train", examples)
    own(material / "cp", tmp_path / "data", tmp_path / "out", *TEXT, *TRAIN)
    names = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label.values()
    assert list(names) == [f"class {index:02d}" for index in range(15)]


@pytest.mark.parametrize("shown", [float, str])
def test_numbers_that_all_differ_are_taken_for_a_scale(shown, material, tmp_path, capsys):
    examples = [{**row, "label": shown(0.5 * index)} for index, row in enumerate(own_rows("train", 24))]
    data = write_own(tmp_path / "data", float)
    write(data, "train", examples)
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert "label has 24 different values in 24 rows" in message and "--regression true" in message
    own(material / "cp", data, tmp_path / "out", *TEXT, *ALL, "--regression", "true")


def test_a_checkpoint_with_other_labels_is_refused_for_own_data(material, tmp_path, capsys):
    data, model = (
        write_own(tmp_path / "data"),
        save_model(tmp_path / "m", CPBertForSequenceClassification, LABELS["rte"]),
    )
    for does in (ALL, ["--do_eval"]):
        message = refusal(capsys, tmp_path / "out", own_options(model, data, tmp_path / "out", *TEXT, *does))
        assert "entailment" in message


def test_a_split_of_two_files_is_refused(material, tmp_path, capsys):
    data = write_own(write_own(tmp_path / "data", extension="csv"))
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert f"{data / 'train.jsonl'} and train.csv are both of the split train" in message


def test_a_column_that_is_not_there_is_refused(material, tmp_path, capsys):
    data = write_own(tmp_path / "data")
    for more, name in ((["--text_columns", "texts"], "texts"), ([*TEXT, "--label_column", "gold"], "gold")):
        given = own_options(material / "cp", data, tmp_path / "out", *more, *ALL)
        assert f"has no column {name}; its columns are text, label" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--task", "sst2", "--text_columns", "sentence"], "text_columns is for a data set of your own; leave out"),
        (["--task", "stsb", "--regression", "true"], "regression is for a data set of your own; leave out"),
        (["--task", "all", "--dataset_name", "film-reviews"], "dataset_name is for a data set of your own; leave out"),
        (["--data_dir", "data"], "Give a --task; or for a data set of your own"),
        ([], "Give a --task; or for a data set of your own"),
        (["--text_columns", "text"], "Give a --task; or for a data set of your own"),
        (["--data_dir", "data", "--text_columns", "a", "b", "c"], "one or two --text_columns"),
        (["--data_dir", "data", "--dataset_config_name", "c", "--regression", "true"], "Give a --task; or for a data"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message, material, tmp_path, capsys):
    paths = ["--model_name_or_path", str(material / "cp"), "--output_dir", str(tmp_path / "out")]
    assert message in refusal(capsys, tmp_path / "out", [*given, *paths, *QUIET, *ALL])


def test_files_take_the_place_of_the_data_set_that_a_configuration_names():
    arguments = GlueArguments("model", data_dir="data", dataset_name="film-reviews", text_columns=["sentence"])
    assert arguments.dataset_name is None
