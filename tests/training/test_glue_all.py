# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""All of GLUE's tasks in one run."""

import contextlib
import io
import json
import random
import shutil
import statistics
from pathlib import Path

import datasets
import numpy as np
import pytest
import transformers
from glue_cases import (
    ALL,
    LABELS,
    METRICS,
    SERVER_FILES,
    by_hand,
    equal_weights,
    glue,
    options,
    predictions,
    refusal,
    results_of,
    rows,
    save_model,
    write,
)
from transformers import (
    AutoModelForSequenceClassification,
    BertModel,
)

from cp_transformers import CPBertForSequenceClassification
from cp_transformers.training import glue as glue_module


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
    for metrics in (content["metrics"], *content["runs"].values()):
        metrics["validation"]["matthews"] = 0.25  # a mark
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


def test_all_tasks_with_several_seeds_new_heads_and_a_teacher_of_hidden_states(
    material, tmp_path, capsys, monkeypatch
):
    """Only MNLI's task is run; the metrics of the others are drawn."""
    run_seed, generator, taught = glue_module._run_seed, random.Random(0), []

    def run_or_draw(arguments, run_folder, shared):
        if arguments.task != "ax":
            taught.append(type(shared.teacher["teacher"]))
        if arguments.task in ("mnli", "ax"):
            return run_seed(arguments, run_folder, shared)
        shutil.copytree(material / "cp", run_folder.start().output_dir, dirs_exist_ok=True)
        return {"validation": {name: generator.random() for name in ["loss", *METRICS[arguments.task]]}}

    monkeypatch.setattr(glue_module, "_run_seed", run_or_draw)
    teaches = ["--teacher", material / "stock", "--distillation_logits_weight", "0"]
    output = tmp_path / "out"
    foreign = save_model(tmp_path / "cola", CPBertForSequenceClassification, LABELS["cola"])
    glue("all", foreign, material, output, *ALL, *teaches, "--new_head", "--seeds", "3", "7")
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
