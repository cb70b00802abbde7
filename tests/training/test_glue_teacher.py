# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Teachers of `cp-transformers glue`."""

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from glue_cases import (
    LABELS,
    SPLITS,
    TRAIN,
    VOCABULARY,
    by_hand,
    glue,
    options,
    refusal,
    results_of,
    rows,
    save_model,
    weights,
    write,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertTokenizer,
)

from cp_transformers import CPBertForSequenceClassification, CPBertModel
from cp_transformers.cli import main as cli
from cp_transformers.training.distillation import DistillationTrainer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, material, cache) -> Path:
    """A stock model that was trained on MNLI's data."""
    output = tmp_path_factory.mktemp("teacher") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        glue("mnli", material / "stock", material / "mnli", output, *TRAIN)
    return output


def with_permuted_head(model: Path, folder: Path, order: list[int]) -> Path:
    """Saves a copy of the model whose output `i` is for the label `order[i]`."""
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


def save_distilbert(folder: Path, **fields) -> Path:
    """A student without token types, with the vocabulary of [`save_model`]'s."""
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(VOCABULARY), dim=16, n_layers=1, n_heads=2, hidden_dim=24, max_position_embeddings=40, **fields
    )
    DistilBertForSequenceClassification(config).save_pretrained(folder)
    DistilBertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)}).save_pretrained(folder)
    return folder


def taught(monkeypatch) -> list[tuple[list[int], torch.Tensor]]:
    """The tokens of each row, and the teacher's logits, from now on."""
    rows, teach = [], DistillationTrainer.teach

    def remember(self, inputs):
        outputs = teach(self, inputs)
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        rows.extend((ids[:n].tolist(), each) for ids, n, each in zip(inputs["input_ids"], lengths, outputs.logits))
        return outputs

    monkeypatch.setattr(DistillationTrainer, "teach", remember)
    return rows


@pytest.mark.parametrize("pair", ["with types teaches one without", "without types teaches one with"])
def test_a_teacher_is_given_the_inputs_of_its_own_tokenizer(pair, teacher, material, tmp_path, monkeypatch):
    labels = {"id2label": dict(enumerate(LABELS["mnli"]))}
    without = save_distilbert(tmp_path / "without", **labels)
    teaches, learns = (teacher, without) if pair.startswith("with types") else (without, material / "cp")
    rows_taught = taught(monkeypatch)
    more = ["--distillation_hidden_weight", "0", "--teacher", teaches, "--new_head", "true"]
    glue("mnli", learns, material / "mnli", tmp_path / "out", *TRAIN, *more)
    network, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(teaches),
        AutoTokenizer.from_pretrained(teaches),
    )
    texts = [(row["premise"], row["hypothesis"]) for row in rows("mnli", "train", SPLITS["train"])]
    encoded = {
        tuple(each["input_ids"][0].tolist()): each
        for each in (tokenizer(*pair, return_tensors="pt") for pair in texts)
    }
    assert len(rows_taught) == 16
    with torch.no_grad():
        for ids, logits in rows_taught:
            own = network.eval()(**encoded[tuple(ids)]).logits[0]
            torch.testing.assert_close(logits, own, atol=1e-5, rtol=0)


def test_a_teacher_whose_tokenizer_makes_other_tokens_is_refused(teacher, material, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(teacher, other)
    file = other / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "do_lower_case": False}))
    for split in ("train", "validation_matched", "validation_mismatched"):
        examples = [{**row, "premise": row["premise"].upper()} for row in rows("mnli", split, 12)]
        write(tmp_path / "data", split, examples)
    given = options("mnli", material / "cp", tmp_path / "data", tmp_path / "out", *TRAIN, "--teacher", other)
    assert "The teacher's tokenizer makes other tokens" in refusal(capsys, tmp_path / "out", given)


def test_a_teacher_of_fewer_positions_is_refused(material, tmp_path, capsys):
    short = save_model(tmp_path / "short", BertForSequenceClassification, LABELS["sst2"], max_position_embeddings=8)
    given = options("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, "--teacher", short)
    assert "has 8 positions, fewer than max_length, 40" in refusal(capsys, tmp_path / "out", given)
    assert cli(["glue", *given, "--max_length", "8"]) == 0
