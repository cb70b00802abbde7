# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The refusals of `cp-transformers glue`."""

import re
import subprocess
import sys

import pytest
from datasets import ClassLabel, Features, Value
from glue_cases import ALL, LABELS, QUIET, ROOT, glue, options, refusal, rows, save_model, write

from cp_transformers import CPBertForSequenceClassification
from cp_transformers.cli import main as cli


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "sst3"], "There is no task sst3; the tasks are cola, sst2"),
        (["--learning_rat", "1"], "there is no option --learning_rat; did you mean learning_rate?"),
        (["--max_steps", "two"], "invalid int value: 'two'"),
        (["--max_length", "0"], "max_length must be positive, not 0"),
        (["--metric_for_best_model", "f1"], "no metric f1 for metric_for_best_model; there are loss, accuracy"),
        (["--batch_eval_metrics", "true"], "need all predictions: leave out prediction_loss_only"),
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
        (lambda row: {**row, "label": 2 if row["idx"] == 3 else 1}, r"has the label '?2'? in row 3"),
        (lambda row: {**row, "label": 0.5 if row["idx"] == 2 else 1.0}, r"has the label '?0\.5'? in row 2"),
        (lambda row: {**row, "label": "fine" if row["idx"] == 4 else "negative"}, "has the label 'fine' in row 4"),
        (
            lambda row: {**row, "label": None if row["idx"] == 1 else 1},
            r"in row 1 \(the first is 0\); it must be negative",
        ),
    ],
)
def test_a_file_that_is_not_the_task_s_is_refused(change, message, extension, material, tmp_path, capsys):
    path = write(tmp_path / "data", "validation", [change(row) for row in rows("sst2", "validation", 6)], extension)
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    refused = refusal(capsys, tmp_path / "out", given)
    assert re.search(message, refused) and str(path) in refused


@pytest.mark.parametrize("extension", ["jsonl", "parquet"])  # in .csv all are texts, also an empty one
@pytest.mark.parametrize("texts", [("a film", None), (3, 4)])
def test_what_is_no_text_is_refused(texts, extension, material, tmp_path, capsys):
    examples = [{"sentence": text, "label": 1} for text in texts]
    path = write(tmp_path / "data", "validation", examples, extension)
    given = options("sst2", material / "cp", tmp_path / "data", tmp_path / "out", "--do_eval")
    message = refusal(capsys, tmp_path / "out", given)
    assert f"{path} has no text in column sentence of row" in message


def test_texts_in_a_column_named_label_are_refused(material, tmp_path, capsys):
    write(tmp_path / "data", "validation", [{"label": "a film", "right": "good"}, {"label": "it", "right": "bad"}])
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, ["bad", "good"])
    paths = ["--model_name_or_path", model, "--data_dir", tmp_path / "data", "--output_dir", tmp_path / "out"]
    given = [*paths, *QUIET, "--text_columns", "label", "--label_column", "right", "--do_eval"]
    assert "texts in a column named label" in refusal(capsys, tmp_path / "out", list(map(str, given)))


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
