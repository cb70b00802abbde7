# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers glue` on small models and files: training, metrics, predictions, seeds, resuming."""

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conversion_cases import SENTENCE_FILES, write_sentence_files
from glue_cases import (
    ALL,
    LABELS,
    METRICS,
    MNLI_SPLITS,
    ROOT,
    SAID_IN_WORDS,
    SERVER_FILES,
    SPLITS,
    TRAIN,
    by_hand,
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
)
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
)

from cp_transformers import CPBertForSequenceClassification, CPBertModel
from cp_transformers.cli import main as cli


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


def test_what_sentence_transformers_needs_and_the_licence_are_kept(material, tmp_path):
    shutil.copytree(material / "cp", tmp_path / "model")
    write_sentence_files(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n")
    glue("sst2", tmp_path / "model", material / "sst2", tmp_path / "out", *TRAIN)
    for name in SENTENCE_FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "linear"])
def test_a_run_goes_on_whatever_it_has_derived_from_its_options(schedule, material, tmp_path):
    steps = ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "1", "--lr_scheduler_type", schedule]
    more = [*TRAIN, "--do_eval", *steps, "--eval_strategy", "epoch", "--metric_for_best_model", "matthews"]
    first = glue("cola", material / "cp", material / "cola", tmp_path / "out", *more)
    (tmp_path / "out" / "results.json").unlink()  # as if it had been killed before its end
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    more += ["--resume_from_checkpoint", "last"]
    assert glue("cola", material / "cp", material / "cola", tmp_path / "out", *more) == first


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


def test_a_seed_s_folder_is_that_of_a_run_with_this_seed_alone(material, tmp_path):
    folder = tmp_path / "out" / "seed-1"
    whole = glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *ALL, "--seeds", "1")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = ["--seed", "1", "--resume_from_checkpoint", "last"]
    assert glue("sst2", material / "cp", material / "sst2", folder, *ALL, *again) == whole
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before  # it is finished


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


def test_an_evaluation_in_a_training_s_folder_leaves_what_the_training_goes_on_by(material, tmp_path):
    output, resume = tmp_path / "out", ["--resume_from_checkpoint", "last"]
    trained = glue("sst2", material / "cp", material / "sst2", output, *TRAIN, "--do_eval")
    before = {name: (output / name).read_bytes() for name in ("results.json", "arguments.yaml", "model.safetensors")}
    for _ in range(2):  # the second finds that it is finished
        glue("sst2", output, material / "sst2", output, "--do_eval", "--max_eval_samples", "5", *resume)
    assert before == {name: (output / name).read_bytes() for name in before}
    evaluated = json.loads((output / "evaluation.json").read_text())["metrics"]
    assert evaluated["validation"].keys() == trained["validation"].keys() and evaluated != trained


def test_a_model_of_which_a_configuration_asks_for_more_outputs_is_evaluated(material, tmp_path):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, LABELS["sst2"], output_hidden_states=True)
    plain = save_model(tmp_path / "plain", CPBertForSequenceClassification, LABELS["sst2"])
    measured = [
        glue("sst2", each, material / "sst2", tmp_path / f"of-{each.name}", "--do_eval") for each in (model, plain)
    ]
    assert measured[0] == measured[1]


def test_a_model_that_has_diverged_has_no_results(material, tmp_path, capsys):
    more = [*TRAIN, "--do_eval", "--learning_rate", "1e30"]
    assert cli(["glue", *options("sst2", material / "cp", material / "sst2", tmp_path / "out", *more)]) == 1
    assert "its training has diverged" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_model_that_has_diverged_predicts_nothing(material, tmp_path, capsys):
    model = save_model(tmp_path / "model", CPBertForSequenceClassification, LABELS["sst2"])
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"].fill_(torch.nan)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert cli(["glue", *options("sst2", model, material / "sst2", tmp_path / "out", "--do_predict")]) == 1
    assert "its training has diverged" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.tsv"))


def test_training_stops_early(material, tmp_path):
    still = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    still += ["--learning_rate", "0", "--max_steps", "20", "--load_best_model_at_end", "true"]
    stops = ["--early_stopping_patience", "2"]
    glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, *still, *stops)
    checkpoints = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("left", [2, 3], ids=["stopped before the end", "stopped before the results"])
def test_a_run_that_stops_early_goes_on_as_if_it_had_not_been_stopped(left, material, tmp_path):
    still = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    still += ["--learning_rate", "1e-12", "--max_steps", "20", "--load_best_model_at_end", "true"]
    still += ["--early_stopping_patience", "2", "--metric_for_best_model", "accuracy"]
    whole = glue("sst2", material / "cp", material / "sst2", tmp_path / "out", *TRAIN, *still)
    output = tmp_path / "out"
    (output / "results.json").unlink()
    for number in range(left + 1, 4):
        shutil.rmtree(output / f"checkpoint-{number}")
    before = load_file(output / "model.safetensors")
    (output / "model.safetensors").unlink()
    more = [*TRAIN, *still, "--resume_from_checkpoint", "last"]
    assert glue("sst2", material / "cp", material / "sst2", output, *more) == whole
    assert sorted(path.name for path in output.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (1, 2, 3)]
    assert_close(load_file(output / "model.safetensors"), before)


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
