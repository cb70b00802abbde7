# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers glue` on small models and files: data, training, metrics, predictions, seeds, resuming, errors."""

import contextlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import transformers
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
)

from cp_transformers import CPBertConfig, CPBertForSequenceClassification, CPBertModel
from cp_transformers.cli import main as cli
from cp_transformers.tasks import glue as glue_module, runs
from cp_transformers.tasks.glue_data import GlueArguments


ROOT = Path(__file__).parents[1]
COLUMNS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "mrpc": ["sentence1", "sentence2"],
    "stsb": ["sentence1", "sentence2"],
    "qqp": ["question1", "question2"],
    "mnli": ["premise", "hypothesis"],
    "qnli": ["question", "sentence"],
    "rte": ["sentence1", "sentence2"],
    "wnli": ["sentence1", "sentence2"],
    "ax": ["premise", "hypothesis"],
}
LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "stsb": None,
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "wnli": ["not_entailment", "entailment"],
    "ax": ["entailment", "neutral", "contradiction"],
}
METRICS = {
    "cola": ["matthews"],
    "sst2": ["accuracy"],
    "mrpc": ["accuracy", "f1"],
    "stsb": ["pearson", "spearman"],
    "qqp": ["accuracy", "f1"],
    "mnli": ["accuracy"],
    "qnli": ["accuracy"],
    "rte": ["accuracy"],
    "wnli": ["accuracy"],
}
SERVER_FILES = {
    "cola": ["CoLA"],
    "sst2": ["SST-2"],
    "mrpc": ["MRPC"],
    "stsb": ["STS-B"],
    "qqp": ["QQP"],
    "mnli": ["MNLI-m", "MNLI-mm"],
    "qnli": ["QNLI"],
    "rte": ["RTE"],
    "wnli": ["WNLI"],
    "ax": ["AX"],
}
SAID_IN_WORDS = ["mnli", "ax", "qnli", "rte"]
SPLITS = {"train": 24, "validation": 12, "test": 6}
MNLI_SPLITS = {"train": 24, "validation_matched": 12, "validation_mismatched": 12}
MNLI_SPLITS |= {"test_matched": 6, "test_mismatched": 6}

DECIDING = ["bad", "good", "odd", "three", "four", "five"]  # the word of each label
FILLING = ["a", "film", "the", "story", "is", "and", "it", "was"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *DECIDING, *FILLING]

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TINY |= {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40}
QUIET = ["--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
TRAIN = ["--do_train", "--max_steps", "2", "--learning_rate", "1e-3", "--save_strategy", "no"]
ALL = [*TRAIN, "--do_eval", "--do_predict"]


# Small models and data


def rows(task: str, split: str, count: int) -> list[dict]:
    """Examples in the columns of `task`, where a word decides the label; without labels in test splits."""
    examples = []
    for index in range(count):
        generator = random.Random(f"{split} {index}")
        labels = LABELS[task]
        label = generator.randrange(len(labels) if labels else len(DECIDING))
        texts = [generator.choices(FILLING, k=generator.randint(2, 7)) for _ in COLUMNS[task]]
        texts[-1].insert(generator.randrange(3), DECIDING[label])
        known = -1 if split.startswith("test") else label if labels else label * 0.9
        examples.append({**dict(zip(COLUMNS[task], map(" ".join, texts))), "label": known, "idx": index})
    return examples


def write(folder: Path, split: str, examples: list[dict], extension: str = "jsonl", features=None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data, path = Dataset.from_list(examples, features=features), folder / f"{split}.{extension}"
    {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[extension](str(path))
    return path


def write_task(folder: Path, task: str, extension: str = "jsonl") -> Path:
    splits = {"mnli": MNLI_SPLITS, "ax": {"test": 6}}.get(task, SPLITS)
    for split, count in splits.items():
        write(folder, split, rows(task, split, count), extension)
    return folder


def save_model(folder: Path, model_class: type = CPBertModel, labels: list[str] | None = None, **options) -> Path:
    """A checkpoint with large random weights, so that its predictions differ, and its tokenizer."""
    if model_class in (BertModel, BertForSequenceClassification):
        config = BertConfig(**{**TINY, "initializer_range": 0.5, **options})
    else:
        config = CPBertConfig(**{**TINY, "pool_gate": True, "initializer_range": 0.5, **options})
    if labels is not None:
        config.num_labels = len(labels)
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """A folder with the data of every task, under its name, and the checkpoints without heads `cp` and `stock`."""
    folder = tmp_path_factory.mktemp("glue")
    for task in LABELS:
        write_task(folder / task, task)
    save_model(folder / "cp", CPBertModel)
    save_model(folder / "stock", BertModel)
    return folder


def options(task: str, model: Path, data: Path, output: Path, *more) -> list[str]:
    paths = ["--model_name_or_path", model, "--data_dir", data, "--output_dir", output]
    return [str(each) for each in ("--task", task, *paths, *QUIET, *more)]


def results_of(output: Path) -> dict:
    return json.loads((output / "results.json").read_text())


def glue(task: str, model: Path, data: Path, output: Path, *more) -> dict:
    """Runs the command and returns its metrics."""
    assert cli(["glue", *options(task, model, data, output, *more)]) == 0
    return results_of(output)["metrics"]


def predictions(output: Path, name: str) -> list[str]:
    """A prediction file's second column; the first must number the rows."""
    header, *lines = (output / "predictions" / f"{name}.tsv").read_text().splitlines()
    assert header == "index\tprediction"
    indices, values = zip(*(line.split("\t") for line in lines))
    assert list(indices) == [str(index) for index in range(len(lines))]
    return list(values)


def by_hand(model: Path, task: str, examples: list[dict]) -> torch.Tensor:
    """Logits of a saved model, one example at a time."""
    network, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(model),
        AutoTokenizer.from_pretrained(model),
    )
    with torch.no_grad():
        encoded = [tokenizer(*(row[column] for column in COLUMNS[task]), return_tensors="pt") for row in examples]
        return torch.cat([network.eval()(**each).logits for each in encoded])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Tasks


@pytest.mark.parametrize("task", METRICS)
def test_every_task_trains_evaluates_and_predicts(task, material, tmp_path, capsys):
    metrics = glue(task, material / "cp", material / task, tmp_path / "out", *ALL)
    splits = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
    assert {split: list(values) for split, values in metrics.items()} == {
        split: ["loss", *METRICS[task]] for split in splits
    }
    printed = capsys.readouterr().out
    assert all(word in printed for word in [*splits, *METRICS[task], str(tmp_path / "out")])
    files = sorted(path.name for path in (tmp_path / "out" / "predictions").iterdir())
    assert files == [f"{name}.tsv" for name in SERVER_FILES[task]]
    for name in SERVER_FILES[task]:
        predicted = predictions(tmp_path / "out", name)
        assert len(predicted) == 6
        if task == "stsb":
            assert np.isfinite([float(value) for value in predicted]).all() and all("." in each for each in predicted)
        else:
            assert set(predicted) <= set(LABELS[task] if task in SAID_IN_WORDS else ["0", "1"])


def test_ax_is_predicted_with_a_model_trained_on_mnli(material, tmp_path):
    glue("mnli", material / "cp", material / "mnli", tmp_path / "mnli", *TRAIN)
    assert glue("ax", tmp_path / "mnli", material / "ax", tmp_path / "ax", "--do_predict") == {}
    logits = by_hand(tmp_path / "mnli", "ax", rows("ax", "test", 6))
    assert predictions(tmp_path / "ax", "AX") == [LABELS["ax"][index] for index in logits.argmax(-1)]


def test_stock_checkpoints_train_too(material, tmp_path):
    metrics = glue("sst2", material / "stock", material / "sst2", tmp_path / "out", *ALL)
    assert list(metrics["validation"]) == ["loss", "accuracy"] and len(predictions(tmp_path / "out", "SST-2")) == 6
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")) is BertForSequenceClassification


def test_what_can_be_learned_is_learned(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertModel, initializer_range=0.02)
    learns = ["--max_steps", "60", "--learning_rate", "1e-2"]
    metrics = glue("sst2", model, material / "sst2", tmp_path / "out", *ALL, *learns)
    assert metrics["validation"]["accuracy"] == 1.0
    texts = [row["sentence"] for row in rows("sst2", "test", 6)]
    assert predictions(tmp_path / "out", "SST-2") == ["1" if "good" in text else "0" for text in texts]


def test_training_alone_measures_and_predicts_nothing(material, tmp_path):
    assert glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN) == {}
    assert (tmp_path / "out" / "model.safetensors").is_file() and not (tmp_path / "out" / "predictions").exists()


@pytest.mark.parametrize("does", ["--do_eval", "--do_predict"])
def test_evaluation_or_prediction_alone_leaves_the_model_and_needs_no_other_file(does, material, tmp_path):
    data, model = tmp_path / "data", save_model(tmp_path / "model", CPBertForSequenceClassification)
    split = {"--do_eval": "validation", "--do_predict": "test"}[does]
    write(data, split, rows("sst2", split, 6))
    metrics = glue("sst2", model, data, tmp_path / "out", does)
    assert list(metrics) == (["validation"] if does == "--do_eval" else [])
    assert (tmp_path / "out" / "predictions").exists() == (does == "--do_predict")
    assert not (tmp_path / "out" / "model.safetensors").exists()


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


# Metrics and predictions


@pytest.mark.parametrize("task", ["cola", "mrpc", "stsb", "mnli"])
def test_metrics_and_predictions_equal_those_of_the_reloaded_model(task, material, tmp_path):
    metrics = glue(task, material / "cp", material / task, tmp_path / "out", *ALL, "--per_device_eval_batch_size", "5")
    for split, measured in metrics.items():
        examples = rows(task, split, 12)
        logits = by_hand(tmp_path / "out", task, examples)
        labels = torch.tensor([row["label"] for row in examples])
        guesses = logits.argmax(-1)
        if task == "stsb":
            expected = {"loss": torch.nn.functional.mse_loss(logits[:, 0], labels)}
            expected["pearson"] = pearsonr(logits[:, 0], labels)[0]
            expected["spearman"] = spearmanr(logits[:, 0], labels)[0]
        else:
            expected = {"loss": torch.nn.functional.cross_entropy(logits, labels)}
            scores = {"accuracy": accuracy_score, "f1": f1_score, "matthews": matthews_corrcoef}
            expected |= {name: scores[name](labels, guesses) for name in METRICS[task]}
        assert measured == pytest.approx({name: float(value) for name, value in expected.items()}, abs=1e-5)
    splits = [split for split in (MNLI_SPLITS if task == "mnli" else SPLITS) if split.startswith("test")]
    for split, name in zip(splits, SERVER_FILES[task], strict=True):
        logits = by_hand(tmp_path / "out", task, rows(task, split, 6))
        predicted = predictions(tmp_path / "out", name)
        if task == "stsb":
            assert [float(each) for each in predicted] == pytest.approx(logits[:, 0].tolist(), abs=6e-4)
        else:
            shown = LABELS[task] if task == "mnli" else ["0", "1"]
            assert predicted == [shown[index] for index in logits.argmax(-1)]


@pytest.mark.parametrize(
    "more",
    [
        ["--per_device_eval_batch_size", "1"],
        ["--train_sampling_strategy", "group_by_length", "--per_device_eval_batch_size", "2"],
        ["--dataloader_drop_last", "true", "--per_device_eval_batch_size", "4"],
    ],
    ids=lambda more: more[0],
)
def test_options_of_batching_change_no_prediction(more, material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, ["number"])
    glue("stsb", model, material / "stsb", tmp_path / "out", "--do_predict", *more)
    expected = by_hand(model, "stsb", rows("stsb", "test", 6))[:, 0]
    predicted = [float(each) for each in predictions(tmp_path / "out", "STS-B")]
    assert predicted == pytest.approx(expected.tolist(), abs=6e-4)


def test_the_saved_model_names_the_labels_of_its_task(material, tmp_path):
    glue("wnli", material / "cp", material / "wnli", tmp_path / "out", *TRAIN)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "not_entailment", 1: "entailment"}


def test_wnli_s_zero_is_not_entailment_and_rte_s_is_entailment(material, tmp_path):
    for task in ("wnli", "rte"):
        model = save_model(tmp_path / task / "model", CPBertForSequenceClassification, LABELS[task])
        network = AutoModelForSequenceClassification.from_pretrained(model)
        with torch.no_grad():
            network.classifier.bias.copy_(torch.tensor([1e4, 0.0]))
        network.save_pretrained(model)
        metrics = glue(task, model, material / task, tmp_path / task / "out", "--do_eval", "--do_predict")
        share = np.mean([row["label"] == 0 for row in rows(task, "validation", 12)])
        assert metrics["validation"]["accuracy"] == pytest.approx(share)
    assert predictions(tmp_path / "wnli" / "out", "WNLI") == ["0"] * 6
    assert predictions(tmp_path / "rte" / "out", "RTE") == ["entailment"] * 6


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


# Seeds


def test_several_seeds_give_the_mean_and_deviation_of_single_runs(material, tmp_path, capsys):
    runs = {}
    for seed in ("3", "7"):
        runs[seed] = glue("mrpc", material / "cp", material / "mrpc", tmp_path / seed, *ALL, "--seed", seed)
    output = tmp_path / "out"
    glue("mrpc", material / "cp", material / "mrpc", output, *ALL, "--seeds", "3", "7")
    results = results_of(output)
    assert results["runs"] == runs and runs["3"] != runs["7"]
    for name in ("loss", "accuracy", "f1"):
        values = [run["validation"][name] for run in runs.values()]
        assert results["metrics"]["validation"][name] == pytest.approx(statistics.mean(values))
        assert results["std"]["validation"][name] == pytest.approx(statistics.stdev(values))
    for seed in runs:
        folder = output / f"seed-{seed}"
        assert predictions(folder, "MRPC") == predictions(tmp_path / seed, "MRPC")
        assert equal_weights(folder, tmp_path / seed)
        assert results_of(folder)["metrics"] == runs[seed]
    assert "std" in capsys.readouterr().out


# Stopping, and going on


def test_a_killed_run_goes_on_as_if_it_had_not_been(material, tmp_path, environment):
    steps = ["--do_train", "--do_eval", "--do_predict", "--max_steps", "8", "--save_steps", "2"]
    steps += ["--learning_rate", "1e-3", "--pool_learning_rate", "1e-2"]
    whole = glue("cola", material / "cp", material / "cola", tmp_path / "whole", *steps)
    output = tmp_path / "killed"
    stops = """
import pathlib, sys, time, transformers
from cp_transformers.cli import main
step = transformers.Trainer.training_step
def training_step(self, *args, **kwargs):
    if self.state.global_step == 5:
        print("reached", flush=True)
        sys.stdin.read()  # until it is killed
    return step(self, *args, **kwargs)
transformers.Trainer.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", stops, "glue"]
    command += options("cola", material / "cp", material / "cola", output, *steps)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert any("reached" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert not (output / "results.json").exists()
    resumed = glue("cola", material / "cp", material / "cola", output, *steps, "--resume_from_checkpoint", "last")
    assert resumed["validation"] == pytest.approx(whole["validation"], abs=1e-5)
    assert predictions(output, "CoLA") == predictions(tmp_path / "whole", "CoLA")


def test_a_finished_seed_is_not_run_again(material, tmp_path):
    output = tmp_path / "out"
    glue("sst2", material / "cp", material / "sst2", output, *ALL, "--seeds", "1")
    content = results_of(output / "seed-1")
    content["metrics"]["validation"]["accuracy"] = 0.25  # a mark
    (output / "seed-1" / "results.json").write_text(json.dumps(content))
    before = {path: path.stat().st_mtime_ns for path in (output / "seed-1").rglob("*")}
    resume = ["--seeds", "1", "2", "--resume_from_checkpoint", "last"]
    glue("sst2", material / "cp", material / "sst2", output, *ALL, *resume)
    assert {path: path.stat().st_mtime_ns for path in (output / "seed-1").rglob("*")} == before
    runs = results_of(output)["runs"]
    assert list(runs) == ["1", "2"] and runs["1"]["validation"]["accuracy"] == 0.25
    assert len(predictions(output / "seed-2", "SST-2")) == 6


def test_a_finished_run_goes_on_if_asked_for_more_steps(material, tmp_path):
    more = ["--save_strategy", "steps", "--lr_scheduler_type", "constant"]
    whole = glue("sst2", material / "cp", material / "sst2", tmp_path / "whole", *ALL, *more, "--max_steps", "4")
    glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more)
    more += ["--max_steps", "4", "--resume_from_checkpoint", "last"]
    assert glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more) == whole


def test_a_checkpoint_that_was_being_written_when_the_run_was_killed_is_passed_over(material, tmp_path):
    more = ["--save_strategy", "steps", "--save_steps", "1"]
    whole = glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more)
    (tmp_path / "out" / "results.json").unlink()
    (tmp_path / "out" / "checkpoint-2" / "trainer_state.json").unlink()  # written last
    more += ["--resume_from_checkpoint", "last"]
    assert glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more) == whole


def test_a_seed_that_was_trained_alone_is_measured_when_the_run_goes_on_with_evaluation(material, tmp_path):
    output = tmp_path / "out"
    glue("sst2", material / "cp", material / "sst2", output, *TRAIN, "--seeds", "2")
    resume = ["--seeds", "1", "2", "--resume_from_checkpoint", "last"]
    metrics = glue("sst2", material / "cp", material / "sst2", output, *TRAIN, "--do_eval", *resume)
    assert list(metrics["validation"]) == ["loss", "accuracy"]


def test_an_earlier_run_s_results_are_not_overwritten(material, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "results.json").write_text("{}")
    assert cli(["glue", *options("sst2", material / "cp", material / "sst2", output, *ALL)]) == 1
    assert "earlier run" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in output.iterdir()} == {"results.json": "{}"}


def test_training_stops_early(material, tmp_path):
    still = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    still += ["--learning_rate", "0", "--max_steps", "20", "--load_best_model_at_end", "true"]
    stops = ["--early_stopping_patience", "2"]
    glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, *still, *stops)
    checkpoints = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_early_stopping_needs_its_options(material, tmp_path, capsys):
    stops = ["--early_stopping_patience", "2"]
    assert cli(["glue", *options("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *stops)]) == 1
    assert "--load_best_model_at_end true" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# Learning rates


def test_the_pool_learning_rate_moves_the_pooling_alone(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, LABELS["sst2"])
    rates = ["--learning_rate", "1e-12", "--pool_learning_rate", "1e-2"]
    glue("sst2", model, material / "sst2", tmp_path / "out", *TRAIN, *rates)
    before, after = weights(model), weights(tmp_path / "out")
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert min(moved[name] for name in moved if name.endswith("context_pool.gate")) > 1e-3
    assert max(moved[name] for name in moved if "context_pool" not in name) < 1e-6


def test_without_a_pool_learning_rate_the_pooling_learns_as_the_rest_does(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, LABELS["sst2"])
    glue("sst2", model, material / "sst2", tmp_path / "out", *TRAIN, "--learning_rate", "1e-12")
    before, after = weights(model), weights(tmp_path / "out")
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-6


@pytest.mark.parametrize(
    "more",
    [
        ["--weight_decay", "0.1", "--adam_beta2", "0.9"],
        ["--adam_epsilon", "1e-2"],
        ["--optim", "sgd"],
    ],
    ids=lambda more: more[0],
)
def test_an_equal_pool_learning_rate_changes_nothing(more, material, tmp_path):
    plain = glue("sst2", material / "cp", material / "sst2", tmp_path / "plain", *ALL, *more)
    more = [*more, "--pool_learning_rate", "1e-3"]
    same = glue("sst2", material / "cp", material / "sst2", tmp_path / "equal", *ALL, *more)
    assert same["validation"] == pytest.approx(plain["validation"], abs=1e-5)


def test_accumulated_gradients_are_those_of_a_larger_batch(material, tmp_path):
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = save_model(tmp_path / "model", BertForSequenceClassification, LABELS["sst2"], **still)
    plain = [*TRAIN, "--optim", "sgd", "--max_grad_norm", "0", "--do_eval", "--learning_rate", "1e-2"]
    split = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    whole = glue("sst2", model, material / "sst2", tmp_path / "whole", *plain)
    parts = glue("sst2", model, material / "sst2", tmp_path / "parts", *plain, *split)
    assert parts["validation"] == pytest.approx(whole["validation"], abs=1e-5)


# Configuration


def test_the_resolved_arguments_reproduce_the_run(material, tmp_path):
    more = ["--pool_learning_rate", "1e-2", "--max_train_samples", "16", "--seeds", "1", "2", "--max_length", "8"]
    more += ["--warmup_steps", "0.1", "--weight_decay", "0.01"]
    metrics = glue("cola", material / "cp", material / "cola", tmp_path / "out", *ALL, *more)
    saved = tmp_path / "out" / "arguments.yaml"
    assert cli(["glue", "--config", str(saved), "--output_dir", str(tmp_path / "other")]) == 0
    again = results_of(tmp_path / "other")
    assert again["metrics"] == metrics and again == results_of(tmp_path / "out")
    first, other = (yaml.safe_load((tmp_path / name / "arguments.yaml").read_text()) for name in ("out", "other"))
    assert other == {**first, "output_dir": str(tmp_path / "other")}


def test_there_is_a_configuration_for_every_task():
    assert sorted(path.stem for path in (ROOT / "configs" / "glue").glob("*")) == sorted(
        [*LABELS, "all", "film_reviews"]
    )


@pytest.mark.parametrize("task", LABELS)
def test_the_configuration_of_a_task_runs_it(task, material, tmp_path):
    path = ROOT / "configs" / "glue" / f"{task}.yaml"
    content = yaml.safe_load(path.read_text())
    assert content["task"] == task and content["output_dir"].endswith(f"/{task}")
    model = material / "cp"
    if task == "ax":
        model = save_model(tmp_path / "model", CPBertForSequenceClassification, LABELS["ax"])
    given = options(task, model, material / task, tmp_path / "out", "--max_steps", "1", "--save_strategy", "no")
    assert cli(["glue", "--config", str(path), *given[2:]]) == 0  # the file names the task
    assert results_of(tmp_path / "out")["task"] == task
    assert all(len(predictions(tmp_path / "out", name)) == 6 for name in SERVER_FILES[task])
    assert (tmp_path / "out" / "model.safetensors").exists() == (task != "ax")


# Errors


def refusal(capsys, output: Path, args: list[str]) -> str:
    """The one line in which a command is refused, before there is an output folder."""
    capsys.readouterr()
    assert cli(["glue", *args]) == 1
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert lines[-1].startswith("cp-transformers: ") and "Traceback" not in printed.err, printed.err
    assert not output.exists()
    return lines[-1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "sst3"], "There is no task sst3; the tasks are cola, sst2"),
        (["--learning_rat", "1"], "there is no option --learning_rat; did you mean learning_rate?"),
        (["--max_steps", "two"], "invalid int value: 'two'"),
        (["--max_length", "0"], "max_length must be positive, not 0"),
        (["--seeds", "1", "1"], "seeds names a seed twice"),
        (["--seeds", "1", "2", "--resume_from_checkpoint", "out/checkpoint-1"], "--resume_from_checkpoint last"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_options_that_make_no_sense_are_refused(more, message, material, tmp_path, capsys):
    given = options("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more)
    assert message in refusal(capsys, tmp_path / "out", given)


def test_a_run_that_does_nothing_is_refused(material, tmp_path, capsys):
    given = options("sst2", material / "cp", material / "sst2", tmp_path / "out")
    assert "There is nothing to do: give --do_train" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize("does", ["--do_train", "--do_eval"])
def test_ax_is_for_prediction_alone(does, material, tmp_path, capsys):
    given = options("ax", material / "cp", material / "ax", tmp_path / "out", does)
    assert "a model trained on mnli" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize(
    "name",
    [
        "nowhere",
        "no/where",
        "/nowhere/at/all",
    ],
)
def test_a_checkpoint_that_is_not_there_is_refused(name, material, tmp_path, capsys):
    given = options("sst2", name, material / "sst2", tmp_path / "out", *ALL)
    assert name in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_a_checkpoint_for_other_labels_is_refused(task, material, tmp_path, capsys):
    foreign = save_model(tmp_path / "model", CPBertForSequenceClassification, LABELS["mnli"])
    message = refusal(capsys, tmp_path / "out", options(task, foreign, material / task, tmp_path / "out", *ALL))
    assert "--new_head" in message and str(foreign) in message


def test_a_missing_file_is_named(material, tmp_path, capsys):
    write(tmp_path / "data", "train", rows("sst2", "train", 6))
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", *ALL)
    assert "none of validation.parquet, validation.jsonl, validation.csv" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize("extension", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"text": "a film", "label": 0}, "has no column sentence; its columns are text, label"),
        (lambda row: {"sentence": "a film"}, "has no column label; its columns are sentence"),
        (lambda row: {**row, "label": 2 if row["idx"] == 3 else 1}, "has the label 2 in row 3"),
        (lambda row: {**row, "label": 0.5 if row["idx"] == 2 else 1.0}, "has the label 0.5 in row 2"),
        (lambda row: {**row, "label": "fine" if row["idx"] == 4 else "negative"}, "has the label 'fine' in row 4"),
        (lambda row: {**row, "label": None if row["idx"] == 1 else 1}, "in row 1; the labels must be negative"),
        (lambda row: {**row, "sentence": row["idx"]}, "has entries in column sentence that are no text"),
    ],
)
def test_a_file_that_is_not_the_task_s_is_refused(change, message, extension, material, tmp_path, capsys):
    path = write(tmp_path / "data", "validation", [change(row) for row in rows("sst2", "validation", 6)], extension)
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    refused = refusal(capsys, tmp_path / "out", given)
    assert message in refused and str(path) in refused


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])  # in .csv it is an empty text
def test_a_missing_text_is_refused(extension, material, tmp_path, capsys):
    examples = [{"sentence": text, "label": 1} for text in ("a film", None)]
    path = write(tmp_path / "data", "validation", examples, extension)
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    message = refusal(capsys, tmp_path / "out", given)
    assert f"{path} has entries in column sentence that are no text" in message


def test_a_class_that_is_unknown_is_refused_with_its_row(material, tmp_path, capsys):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=LABELS["sst2"])})
    examples = [{"sentence": "a film", "label": label} for label in (0, 1, -1)]  # as in the Hub's test split
    path = write(tmp_path / "data", "validation", examples, "parquet", features)
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    message = refusal(capsys, tmp_path / "out", given)
    assert str(path) in message and "row 2" in message


def test_an_infinite_label_is_refused_with_its_row(material, tmp_path, capsys):
    examples = [{"sentence": "a film", "label": label} for label in (0.0, 1.0, float("inf"))]
    write(tmp_path / "data", "validation", examples, "parquet")
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    assert "row 2" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize("text", ["NA", "null"])
def test_words_that_pandas_takes_for_missing_are_texts(text, tmp_path):
    data, model = tmp_path / "data", save_model(tmp_path / "model", CPBertForSequenceClassification)
    data.mkdir()
    (data / "validation.csv").write_text(f"sentence,label\na film,0\n{text},1\n")
    assert list(glue("sst2", model, data, tmp_path / "out", "--do_eval")) == ["validation"]


@pytest.mark.parametrize(
    ("extension", "content"),
    [
        ("jsonl", ""),
        ("jsonl", "{"),
        ("jsonl", '{"sentence": "a film", "label": 1}\n{"sentence": '),
        ("csv", ""),
        ("csv", "sentence,label\n"),
        ("parquet", ""),
        ("parquet", "PAR1"),
    ],
)
def test_an_empty_or_damaged_file_is_refused(extension, content, material, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / f"validation.{extension}"
    path.write_text(content)
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    assert str(path) in refusal(capsys, tmp_path / "out", given)


def test_a_file_in_the_place_of_the_output_is_kept_and_named(material, tmp_path, capsys):
    output = tmp_path / "out"
    output.write_text("mine")
    assert cli(["glue", *options("sst2", material / "cp", material / "sst2", output, *ALL)]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("cp-transformers: ") and str(output) in error
    assert output.read_text() == "mine"


def test_an_unreachable_hub_is_named_with_the_way_out(material, tmp_path, environment):
    command = [sys.executable, str(ROOT / "scripts" / "run_glue.py"), "--task", "sst2", "--model_name_or_path"]
    command += [str(material / "cp"), "--output_dir", str(tmp_path / "out"), *QUIET, *ALL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cp-transformers: nyu-mll/glue cannot be fetched") and "--data_dir" in last
    assert not (tmp_path / "out").exists()


# Several processes


@pytest.fixture(scope="module")
def two(tmp_path_factory, material, cache) -> tuple[Path, str]:
    """A folder with data and the output of two processes that trained on them, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    for split, count in (("train", 24), ("validation", 13), ("test", 7)):
        write(folder / "data", split, rows("stsb", split, count))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "run_glue.py"), "--ddp_backend", "gloo"]
    command += options("stsb", material / "cp", folder / "data", folder / "out", *ALL)
    command += ["--per_device_eval_batch_size", "3"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_two_processes_write_one_set_of_files(two):
    folder, printed = two
    names = {str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*") if path.is_file()}
    assert {"arguments.yaml", "results.json", "model.safetensors", "predictions/STS-B.tsv"} <= names
    assert not [name for name in names if name.endswith(".new")] and printed.count("Written to") == 1


def test_two_processes_count_every_example_once(two, tmp_path):
    folder, _ = two
    one = glue("stsb", folder / "out", folder / "data", tmp_path / "one", "--do_eval", "--do_predict")["validation"]
    measured = results_of(folder / "out")["metrics"]["validation"]
    for name in ("loss", "pearson", "spearman"):
        assert measured[name] == pytest.approx(one[name], rel=1e-5)  # of batches of other sizes, in float32
    assert len(predictions(folder / "out", "STS-B")) == 7
    assert predictions(folder / "out", "STS-B") == predictions(tmp_path / "one", "STS-B")


def test_smoothing_leaves_numbers_on_a_scale_as_they_are(material, tmp_path):
    smooth = ["--label_smoothing_factor", "0.1"]
    runs = [glue("stsb", material / "cp", material / "stsb", tmp_path / str(len(m)), *ALL, *m) for m in ([], smooth)]
    assert runs[0] == runs[1]


def test_several_runs_are_not_pushed_to_one_repository(material, tmp_path, capsys):
    more = ["--seeds", "1", "2", "--push_to_hub", "--hub_model_id", "me/model"]
    args = options("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more)
    assert "leave out --push_to_hub" in refusal(capsys, tmp_path / "out", args)


# All tasks in one run


TASKS = [task for task in LABELS if task != "ax"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, material, cache) -> tuple[Path, str]:
    """The output folder of `--task all`, and what it printed."""
    output = tmp_path_factory.mktemp("all") / "out"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        glue("all", material / "cp", material, output, *ALL)
    return output, printed.getvalue()


def score_by_hand(metrics: dict) -> float:
    """GLUE's number for a task: the mean over its metrics, and over MNLI's two validation splits."""
    values = []
    for split in metrics.values():
        values.append(np.mean([split[name] for name in split if name != "loss"]))
    return float(np.mean(values))


def assert_scores(scores: dict[str, float], by_task: dict[str, float]) -> None:
    """Those of the tasks, and their averages with and without WNLI."""
    assert by_task.keys() == set(TASKS)
    expected = {**by_task, "average": float(np.mean(list(by_task.values())))}
    expected["without wnli"] = float(np.mean([score for task, score in by_task.items() if task != "wnli"]))
    assert scores == pytest.approx(expected)


def test_all_tasks_have_a_folder_each(whole):
    output, _ = whole
    for task in TASKS:
        assert results_of(output / task)["task"] == task
        model = AutoModelForSequenceClassification.from_pretrained(output / task)
        assert model.config.num_labels == len(LABELS[task] or [None])
        assert all(each.keys() == {"loss", *METRICS[task]} for each in results_of(output / task)["metrics"].values())
    assert not (output / "ax" / "model.safetensors").exists()
    folders = {path.name for path in output.iterdir() if path.is_dir()}
    assert folders == {*TASKS, "ax", "predictions"}


def test_each_of_all_tasks_runs_as_it_does_alone(whole, material, tmp_path):
    output, _ = whole
    metrics = glue("rte", material / "cp", material / "rte", tmp_path / "out", *ALL)
    assert results_of(output / "rte")["metrics"] == metrics == results_of(output)["metrics"]["rte"]
    assert equal_weights(output / "rte", tmp_path / "out")
    assert predictions(output, "RTE") == predictions(tmp_path / "out", "RTE")


def test_the_predictions_of_all_tasks_are_in_one_folder(whole):
    output, _ = whole
    names = {name: task for task, names in SERVER_FILES.items() for name in names}
    assert {path.name for path in (output / "predictions").iterdir()} == {f"{name}.tsv" for name in names}
    assert len(names) == 11
    for name, task in names.items():
        assert predictions(output, name) == predictions(output / task, name) and len(predictions(output, name)) == 6


def test_ax_is_predicted_by_the_model_that_all_trained_on_mnli(whole):
    output, _ = whole
    logits = by_hand(output / "mnli", "ax", rows("ax", "test", 6))
    assert predictions(output, "AX") == [LABELS["ax"][index] for index in logits.argmax(-1)]


def test_the_scores_of_all_tasks_are_the_means_of_their_metrics(whole):
    output, printed = whole
    scores = results_of(output)["scores"]
    assert_scores(scores, {task: score_by_hand(results_of(output / task)["metrics"]) for task in TASKS})
    lines = {line.split("  ")[0]: line for line in printed.splitlines()}
    for name, score in scores.items():
        assert f"{100 * score:.2f}" in lines[name]
    assert all(metric in lines[task] for task in TASKS for metric in METRICS[task])
    assert "loss" not in printed.split("measured")[1] and "std" not in results_of(output)


def test_of_all_tasks_those_that_are_finished_are_not_run_again(whole, material, tmp_path, monkeypatch):
    output, worked = tmp_path / "out", []
    shutil.copytree(whole[0], output)
    content = results_of(output / "cola")
    content["metrics"]["validation"]["matthews"] = 0.25  # a mark
    (output / "cola" / "results.json").write_text(json.dumps(content))
    for path in (output / "results.json", output / "wnli" / "results.json", output / "predictions" / "WNLI.tsv"):
        path.unlink()

    def noting(does):
        def method(self, *args, **kwargs):
            worked.append(Path(self.args.output_dir).name)
            return does(self, *args, **kwargs)

        return method

    for name in ("train", "evaluate", "predict"):
        monkeypatch.setattr(transformers.Trainer, name, noting(getattr(transformers.Trainer, name)))
    glue("all", material / "cp", material, output, *ALL, "--resume_from_checkpoint", "last")
    assert set(worked) == {"wnli", "ax"}  # in the copy, ax is predicted by another model: the copy's
    again, first = results_of(output)["scores"], results_of(whole[0])["scores"]
    assert {task: again[task] for task in TASKS} == {task: first[task] for task in TASKS} | {"cola": 0.25}
    assert_scores(again, {task: again[task] for task in TASKS})
    assert predictions(output, "WNLI") == predictions(whole[0], "WNLI")


def test_all_tasks_with_several_seeds_and_a_teacher_of_hidden_states(material, tmp_path, capsys, monkeypatch):
    """Of the tasks, only MNLI's is run; the others' metrics are drawn."""
    run_seed, generator, taught = glue_module._run_seed, random.Random(0), []

    def run_or_draw(arguments, training, task, config, tokenizer, encoded, to_task, teacher):
        if arguments.task != "ax":
            taught.append(type(teacher["teacher"]))
        if arguments.task in ("mnli", "ax"):
            return run_seed(arguments, training, task, config, tokenizer, encoded, to_task, teacher)
        shutil.copytree(material / "cp", training.output_dir, dirs_exist_ok=True)
        return {"validation": {name: generator.random() for name in ["loss", *METRICS[arguments.task]]}}

    monkeypatch.setattr(glue_module, "_run_seed", run_or_draw)
    teaches = ["--teacher", material / "stock", "--distillation_logits_weight", "0"]
    output = tmp_path / "out"
    glue("all", material / "cp", material, output, *ALL, *teaches, "--seeds", "3", "7")
    assert taught == [BertModel] * 18
    results = results_of(output)
    assert set(results["runs"]) == {*TASKS, "average", "without wnli"}
    for seed in ("3", "7"):
        by_task = {task: score_by_hand(results_of(output / task / f"seed-{seed}")["metrics"]) for task in TASKS}
        assert_scores({name: results["runs"][name][seed] for name in results["runs"]}, by_task)
        logits = by_hand(output / "mnli" / f"seed-{seed}", "ax", rows("ax", "test", 6))
        expected = [LABELS["ax"][index] for index in logits.argmax(-1)]
        for folder in (output / "ax" / f"seed-{seed}" / "predictions", output / "predictions" / f"seed-{seed}"):
            assert [line.split("\t")[1] for line in (folder / "AX.tsv").read_text().splitlines()[1:]] == expected
        files = {path.name for path in (output / "predictions" / f"seed-{seed}").iterdir()}
        assert files == {"AX.tsv", "MNLI-m.tsv", "MNLI-mm.tsv"}
    for name, by_seed in results["runs"].items():
        assert results["scores"][name] == pytest.approx(statistics.mean(by_seed.values()))
        assert results["std"][name] == pytest.approx(statistics.stdev(by_seed.values()))
    assert "std" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["wnli/validation", "ax/test"])
def test_what_the_last_task_lacks_is_said_before_the_first_is_trained(missing, material, tmp_path, capsys):
    for task in LABELS:
        shutil.copytree(material / task, tmp_path / "data" / task)
    (tmp_path / "data" / f"{missing}.jsonl").unlink()
    given = options("all", material / "cp", tmp_path / "data", tmp_path / "out", *ALL)
    message = refusal(capsys, tmp_path / "out", given)
    folder, split = missing.split("/")
    assert str(tmp_path / "data" / folder) in message and f"{split}.jsonl" in message


def test_a_label_of_the_last_task_is_checked_before_the_first_is_trained(material, tmp_path, capsys):
    for task in LABELS:
        shutil.copytree(material / task, tmp_path / "data" / task)
    examples = [{**row, "label": 2 if row["idx"] == 3 else 1} for row in rows("wnli", "validation", 6)]
    write(tmp_path / "data" / "wnli", "validation", examples)
    given = options("all", material / "cp", tmp_path / "data", tmp_path / "out", *ALL)
    assert "has the label 2 in row 3" in refusal(capsys, tmp_path / "out", given)


@pytest.mark.parametrize("fault", ["nowhere", "two labels", "teacher"])
def test_what_no_task_or_a_later_one_can_use_is_said_before_the_first_is_trained(fault, material, tmp_path, capsys):
    model, more = material / "cp", []
    if fault == "nowhere":
        model = tmp_path / "nowhere"
    elif fault == "two labels":  # unnamed, they suit CoLA, but not STS-B
        model = save_model(tmp_path / "model", CPBertForSequenceClassification)
    else:
        teacher = save_model(tmp_path / "teacher", BertModel, hidden_size=32)
        more = ["--teacher", teacher, "--distillation_logits_weight", "0"]
    refusal(capsys, tmp_path / "out", options("all", model, material, tmp_path / "out", *ALL, *more))


@pytest.mark.parametrize("does", [["--do_eval"], ["--do_train"], ["--do_train", "--do_predict"], ["--do_predict"]])
def test_all_tasks_are_trained_and_evaluated(does, material, tmp_path, capsys):
    given = options("all", material / "cp", material, tmp_path / "out", *does)
    assert "give --do_train and --do_eval" in refusal(capsys, tmp_path / "out", given)


def test_all_tasks_are_resumed_from_their_own_checkpoints(material, tmp_path, capsys):
    more = ["--resume_from_checkpoint", tmp_path / "checkpoint-1"]
    given = options("all", material / "cp", material, tmp_path / "out", *ALL, *more)
    assert "--resume_from_checkpoint last" in refusal(capsys, tmp_path / "out", given)


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


def test_numbers_on_a_scale_are_learned_and_evaluated(material, tmp_path):
    for split, count in SPLITS.items():
        examples = rows("stsb", split, count)
        renamed = [{"first": r["sentence1"], "second": r["sentence2"], "grade": r["label"]} for r in examples]
        write(tmp_path / "data", split, renamed)
    given = [*PAIR, "--label_column", "grade", "--regression", "true"]
    metrics = own(material / "cp", tmp_path / "data", tmp_path / "out", *given, *ALL)
    assert metrics == glue("stsb", material / "cp", material / "stsb", tmp_path / "stsb", *ALL)
    assert predictions(tmp_path / "out", "test") == predictions(tmp_path / "stsb", "STS-B")
    again = own(tmp_path / "out", tmp_path / "data", tmp_path / "again", *given, "--do_eval", "--do_predict")
    assert again == metrics


def test_a_data_set_may_be_given_by_its_name(material, tmp_path, monkeypatch):
    parts = {split: Dataset.from_list(own_rows(split, count)) for split, count in SPLITS.items()}
    monkeypatch.setitem(runs.PACKAGED, "film-reviews", lambda: parts)
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


def test_a_blank_or_the_case_makes_no_label_of_its_own(material, tmp_path):
    count = itertools.count()

    def shown(label: int) -> str:
        return [["bad", "bad "], ["good", "Good"]][label][next(count) % 2]

    own(material / "cp", write_own(tmp_path / "data", shown, "parquet"), tmp_path / "out", *TEXT, *ALL)
    names = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").config.id2label.values()
    assert len({name.strip().lower() for name in names}) == len(names) == 2


def test_an_unknown_label_is_refused_with_its_row(material, tmp_path, capsys):
    data = write_own(tmp_path / "data")
    examples = own_rows("validation", 6)
    examples[4]["label"] = "odd"
    path = write(data, "validation", examples)
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert f"{path} has the label 'odd' in row 4; the labels must be bad, good." in message


def test_the_numbers_of_named_labels_are_no_labels(material, tmp_path, capsys):
    data = write_own(tmp_path / "data")
    write(data, "validation", own_rows("validation", 6, int))
    message = refusal(capsys, tmp_path / "out", own_options(material / "cp", data, tmp_path / "out", *TEXT, *ALL))
    assert "the labels must be bad, good." in message


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


def test_numbers_that_all_differ_are_taken_for_a_scale(material, tmp_path, capsys):
    examples = [{**row, "label": 0.5 * index} for index, row in enumerate(own_rows("train", 24))]
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


# Teachers


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, material, cache) -> Path:
    """A stock model that was trained on MNLI's data."""
    output = tmp_path_factory.mktemp("teacher") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        glue("mnli", material / "stock", material / "mnli", output, *TRAIN)
    return output


def with_permuted_head(model: Path, folder: Path, order: list[int]) -> Path:
    """The same model, whose output `i` is for the label `order[i]`."""
    shutil.copytree(model, folder)
    network = AutoModelForSequenceClassification.from_pretrained(model)
    names = network.config.id2label
    with torch.no_grad():
        network.classifier.weight.copy_(network.classifier.weight[order])
        network.classifier.bias.copy_(network.classifier.bias[order])
    network.config.id2label = {index: names[label] for index, label in enumerate(order)}
    network.config.label2id = {name: index for index, name in network.config.id2label.items()}
    network.save_pretrained(folder)
    return folder


def largest_difference(first: Path, second: Path) -> float:
    one, other = weights(first), weights(second)
    return max(float((one[name] - other[name]).abs().max()) for name in one)


SLOW = ["--optim", "sgd", "--learning_rate", "1e-2", "--max_grad_norm", "0"]


def test_the_order_of_the_teacher_s_labels_does_not_matter(teacher, material, tmp_path):
    named = save_model(tmp_path / "named", CPBertForSequenceClassification, LABELS["mnli"])
    student = with_permuted_head(named, tmp_path / "student", [1, 2, 0])
    permuted = with_permuted_head(teacher, tmp_path / "permuted", [2, 0, 1])
    for name, source in (("plain", teacher), ("permuted", permuted)):
        more = [*SLOW, "--teacher", source, "--distillation_logits_weight", "1", "--distillation_hidden_weight", "0"]
        glue("mnli", student, material / "mnli", tmp_path / f"{name}_out", *TRAIN, *more)
    assert largest_difference(tmp_path / "plain_out", tmp_path / "permuted_out") < 1e-6
    wrong = tmp_path / "wrong"  # the same outputs under other names teach something else
    shutil.copytree(permuted, wrong)
    shutil.copyfile(teacher / "config.json", wrong / "config.json")
    more[more.index("--teacher") + 1] = wrong
    glue("mnli", student, material / "mnli", tmp_path / "wrong_out", *TRAIN, *more)
    assert largest_difference(tmp_path / "plain_out", tmp_path / "wrong_out") > 1e-5


def test_a_student_learns_its_teacher_s_answers_and_not_the_labels(material, tmp_path):
    """The teacher has learned the opposite of what the labels say."""
    for split in ("train", "validation"):
        flipped = [{**row, "label": 1 - row["label"]} for row in rows("sst2", split, SPLITS[split])]
        write(tmp_path / "flipped", split, flipped)
    model = save_model(tmp_path / "model", BertModel, initializer_range=0.02)
    student = save_model(tmp_path / "student", CPBertModel, num_hidden_layers=1, initializer_range=0.02)
    learns = [*TRAIN, "--max_steps", "60", "--learning_rate", "1e-2", "--do_eval"]
    teacher = glue("sst2", model, tmp_path / "flipped", tmp_path / "teacher", *learns)
    assert teacher["validation"]["accuracy"] == 1.0
    more = [
        "--teacher",
        tmp_path / "teacher",
        "--distillation_logits_weight",
        "1",
        "--distillation_hidden_weight",
        "0",
    ]
    metrics = glue("sst2", student, material / "sst2", tmp_path / "out", *learns, *more)
    assert metrics["validation"]["accuracy"] == 0.0


def test_a_teacher_changes_the_training_and_is_named_in_the_arguments(teacher, material, tmp_path):
    data, more = material / "mnli", ["--do_eval", "--do_predict", "--teacher", teacher, "--layer_map", "0:0", "2:2"]
    metrics = glue("mnli", material / "cp", data, tmp_path / "out", *TRAIN, *more)
    glue("mnli", material / "cp", data, tmp_path / "alone", *TRAIN)
    assert largest_difference(tmp_path / "out", tmp_path / "alone") > 1e-4
    saved = tmp_path / "out" / "arguments.yaml"
    content = yaml.safe_load(saved.read_text())
    assert content["teacher"] == str(teacher) and content["layer_map"] == ["0:0", "2:2"]
    assert cli(["glue", "--config", str(saved), "--output_dir", str(tmp_path / "again")]) == 0
    assert results_of(tmp_path / "again")["metrics"] == metrics
    logits = by_hand(tmp_path / "out", "mnli", rows("mnli", "validation_matched", 12))
    labels = torch.tensor([row["label"] for row in rows("mnli", "validation_matched", 12)])
    loss = float(torch.nn.functional.cross_entropy(logits, labels))
    assert metrics["validation_matched"]["loss"] == pytest.approx(loss, abs=1e-5)


def test_a_teacher_of_numbers_teaches_too(material, tmp_path):
    glue("stsb", material / "stock", material / "stsb", tmp_path / "teacher", *TRAIN)
    more = ["--teacher", tmp_path / "teacher", "--do_eval"]
    metrics = glue("stsb", material / "cp", material / "stsb", tmp_path / "out", *TRAIN, *more)
    assert list(metrics["validation"]) == ["loss", "pearson", "spearman"]


def test_a_teacher_without_a_head_teaches_hidden_states_alone(material, tmp_path, capsys):
    given = options(
        "sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, "--teacher", material / "stock"
    )
    message = refusal(capsys, tmp_path / "out", given)
    assert "has no trained classifier" in message and "--distillation_logits_weight 0" in message
    assert cli(["glue", *given, "--distillation_logits_weight", "0"]) == 0


def test_a_teacher_of_another_width_teaches_answers_alone(material, tmp_path, capsys):
    wide = save_model(tmp_path / "wide", BertForSequenceClassification, LABELS["sst2"], hidden_size=32)
    given = options("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, "--teacher", wide)
    message = refusal(capsys, tmp_path / "out", given)
    assert "16 channels" in message and "has 32" in message and "distillation_hidden_weight" in message
    assert cli(["glue", *given, "--distillation_hidden_weight", "0"]) == 0


def test_a_teacher_with_another_vocabulary_is_refused(teacher, material, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    for path in other.glob("tokenizer*"):
        path.unlink()
    words = [*VOCABULARY[:-2], VOCABULARY[-1], VOCABULARY[-2]]
    (other / "vocab.txt").write_text("\n".join(words))
    (other / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    given = options("mnli", material / "cp", material / "mnli", tmp_path / "out", *TRAIN, "--teacher", other)
    assert f"The teacher {other} has another vocabulary" in refusal(capsys, tmp_path / "out", given)


def test_a_teacher_of_other_labels_is_refused(teacher, material, tmp_path, capsys):
    for task in ("rte", "stsb"):
        given = options(task, material / "cp", material / task, tmp_path / "out", *TRAIN, "--teacher", teacher)
        message = refusal(capsys, tmp_path / "out", given)
        assert str(teacher) in message and "labels" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--layer_map", "2:2", "1-1"], "layer_map takes pairs of numbers such as 1:2, not '1-1'"),
        (["--layer_map", "3:1"], "the student has hidden states 0 to 2"),
        (["--layer_map", "1:3"], "the teacher has hidden states 0 to 2"),
        (
            ["--distillation_logits_weight", "0", "--distillation_hidden_weight", "0"],
            "the teacher would teach nothing",
        ),
        (["--distillation_logits_weight", "1.5"], "distillation_logits_weight must be from 0 to 1, not 1.5"),
        (["--distillation_temperature", "0"], "distillation_temperature must be positive, not 0"),
        (["--distillation_hidden_weight", "-1"], "distillation_hidden_weight must not be negative"),
        (["--do_train", "false", "--do_eval"], "A teacher teaches in training"),
        (["--teacher", "/no/where"], "/no/where"),
        (["--task", "all", "--do_eval"], "with --task all learn from its hidden states alone"),
    ],
)
def test_a_teacher_s_options_that_make_no_sense_are_refused(more, message, teacher, material, tmp_path, capsys):
    given = options("mnli", material / "cp", material / "mnli", tmp_path / "out", *TRAIN, "--teacher", teacher, *more)
    assert message in refusal(capsys, tmp_path / "out", given)


# Logs, and a full disk


def test_a_run_writes_a_log_for_tensorboard(material, tmp_path):
    pytest.importorskip("tensorboard")
    more = ["--report_to", "tensorboard", "--logging_steps", "1"]
    glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, *more)
    logs = [path for path in (tmp_path / "out").rglob("events.out.tfevents.*") if path.stat().st_size]
    assert logs


def test_a_disk_that_gets_full_is_an_error_of_one_sentence(material, tmp_path, environment):
    model = save_model(tmp_path / "model", CPBertModel, intermediate_size=4096)
    size = (model / "model.safetensors").stat().st_size
    assert size > 1_000_000
    limited = """
import resource, signal, sys
from cp_transformers.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit, output in ((int(sys.argv[1]), "optimizer"), (int(sys.argv[2]), "model")):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    print("status", main([*sys.argv[3:], "--output_dir", output]), flush=True)
"""
    # First there is room for the model, but not for the optimiser, which takes twice as much; then for neither.
    command = [sys.executable, "-W", "ignore", "-c", limited, str(int(1.3 * size)), str(size // 2), "glue"]
    command += options("sst2", model, material / "sst2", tmp_path, *ALL, "--save_strategy", "steps")
    kept = {"env": environment, "cwd": tmp_path, "capture_output": True, "text": True}
    done = subprocess.run(command, **kept, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if "status" in line] == ["status 1", "status 1"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("cp-transformers: ")]
    assert len(errors) == 2 and done.returncode == 0
    assert not list(tmp_path.glob("*/results.json"))
