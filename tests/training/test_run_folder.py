# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The folder of a run: what the run was asked for, where it goes on, and what it leaves."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from mlm_cases import TRAIN, make_data, mlm, options, refusal, results_of
from transformers import TrainingArguments

from cp_transformers.checkpoints.hub import Pushed
from cp_transformers.cli import main as cli
from cp_transformers.training import run_folder
from cp_transformers.training.distillation import DistillationArguments
from cp_transformers.training.glue_data import GlueArguments
from cp_transformers.training.mlm import MlmArguments
from cp_transformers.training.run_folder import RunFolder, last_checkpoint


STEPS = ["--do_train", "--do_eval", "--max_steps", "6", "--save_steps", "2", "--per_device_train_batch_size", "5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """See [`mlm_cases.make_data`]."""
    return make_data(tmp_path_factory.mktemp("texts"))


# What was asked for


@pytest.mark.parametrize("does", ["do_train", "do_eval"])
def test_what_derives_from_the_options_changes_nothing_of_what_was_asked_for(does, tmp_path):
    """The commands change both kinds of arguments while they work."""
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 3}}
    more = {does: True, "eval_strategy": "epoch", "label_smoothing_factor": 0.1, **plateau}
    training = TrainingArguments(str(tmp_path / "out"), **more)
    arguments, distillation = GlueArguments("bert", task="stsb"), DistillationArguments()
    folder = RunFolder(training, arguments, distillation)
    requested, given = dict(folder.requested), dict(folder.options)
    started = folder.go_on()
    started.label_smoothing_factor, arguments.max_length = 0.0, 7
    started.lr_scheduler_kwargs["mode"] = "max"
    folder.write_results({})
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == {"asked": requested}
    assert folder.options == given == yaml.safe_load((tmp_path / "out" / "arguments.yaml").read_text())
    assert RunFolder(started, arguments, distillation).requested != requested  # which these would have


@pytest.mark.parametrize("option", ["learning_rate", "seed", "max_steps", "do_eval", "bf16_full_eval"])
def test_a_run_is_finished_for_its_own_options_alone(option, tmp_path):
    given = {"do_train": True, "resume_from_checkpoint": "last", "use_cpu": True}
    other = {"learning_rate": 1e-3, "seed": 1, "max_steps": 7, "do_eval": True, "bf16_full_eval": True}[option]
    folders = [
        RunFolder(TrainingArguments(str(tmp_path), **given, **more), MlmArguments(dataset_name="review-texts"))
        for more in ({}, {}, {option: other})
    ]
    written = folders[0].write_results({"metrics": 1})
    assert [folder.find_results() for folder in folders] == [written, written, None]


def test_a_run_that_is_not_to_go_on_finds_no_results(tmp_path):
    folder = RunFolder(TrainingArguments(str(tmp_path), do_eval=True), MlmArguments(dataset_name="review-texts"))
    folder.write_results({})
    assert folder.find_results() is None


# Going on


def test_a_run_does_not_go_on_from_a_checkpoint_of_the_model_alone(data, tmp_path, capsys):
    alone = [*STEPS, "--save_only_model", "true"]
    mlm(data, tmp_path / "out", *alone)
    again = [*alone, "--resume_from_checkpoint", "last"]
    mlm(data, tmp_path / "out", *again)  # it is finished
    (tmp_path / "out" / "results.json").unlink()
    message = refusal(capsys, [*options(data, tmp_path / "out"), *again])
    assert "checkpoint-6 holds the model alone (--save_only_model true), so that its training cannot go on" in message


def test_a_run_does_not_go_on_with_another_number_of_processes(data, tmp_path, capsys):
    mlm(data, tmp_path / "out", *STEPS)
    (tmp_path / "out" / "results.json").unlink()
    state = tmp_path / "out" / "checkpoint-6" / "rng_state.pth"
    for process in range(2):  # as two processes write them
        shutil.copy(state, state.with_name(f"rng_state_{process}.pth"))
    state.unlink()
    message = refusal(capsys, [*options(data, tmp_path / "out"), *STEPS, "--resume_from_checkpoint", "last"])
    assert "checkpoint-6 is of a run with 2 processes, and this one has 1: go on with as many, or" in message


@pytest.mark.parametrize("content", ["", "a: [", "- a"])
def test_arguments_of_an_earlier_run_that_are_damaged_are_said_to_be_so(content, data, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "arguments.yaml").write_text(content)
    message = refusal(capsys, [*options(data, tmp_path / "out"), *TRAIN, "--resume_from_checkpoint", "last"])
    assert f"{tmp_path / 'out' / 'arguments.yaml'} " in message


@pytest.mark.parametrize("content", ["", '{"epoch": 1.0, "glo'])
def test_a_checkpoint_whose_state_is_damaged_is_passed_over(content, tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}" if step == 2 else content)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_finished_run_is_done_again_when_its_files_have_changed(data, tmp_path):
    texts = shutil.copytree(data, tmp_path / "texts")
    mlm(texts, tmp_path / "trained", *TRAIN, "--do_eval")
    evaluation = ["--do_eval", "--model_name_or_path", tmp_path / "trained", "--resume_from_checkpoint", "last"]
    first = mlm(texts, tmp_path / "out", *evaluation)
    assert mlm(texts, tmp_path / "out", *evaluation) == first
    held_out = texts / "validation.txt"
    held_out.write_text("\n".join(held_out.read_text().splitlines()[:5]))
    second = mlm(texts, tmp_path / "out", *evaluation)
    assert second["tokens"] < first["tokens"]
    file = tmp_path / "trained" / "model.safetensors"
    os.utime(file, ns=(0, 0))
    (tmp_path / "out" / "results.json").write_text(json.dumps({**results_of(tmp_path / "out"), "metrics": {}}))
    assert mlm(texts, tmp_path / "out", *evaluation) == second


def test_a_finished_training_is_not_done_again_because_a_file_has_another_time(data, tmp_path):
    texts = shutil.copytree(data, tmp_path / "texts")
    mlm(texts, tmp_path / "out", *TRAIN)
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    os.utime(texts / "train.txt", ns=(0, 0))
    mlm(texts, tmp_path / "out", *TRAIN, "--resume_from_checkpoint", "last")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written


def test_links_that_lead_nowhere_are_passed_over_where_files_are_compared(data, tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "texts" / "there.txt").write_text("")
    arguments = MlmArguments(dataset_name=str(tmp_path / "texts"))
    training = TrainingArguments(str(tmp_path / "out"), do_eval=True)
    first = RunFolder(training, arguments).requested
    assert first == RunFolder(training, arguments).requested
    (tmp_path / "texts" / "there.txt").write_text("a text")
    assert first != RunFolder(training, arguments).requested


def test_a_finished_run_is_pushed_when_the_push_is_requested_later(data, tmp_path, monkeypatch):
    pushed = []

    def push_checkpoint(folder, repo, **options) -> Pushed:
        pushed.append(repo)
        return Pushed("url", "0" * 40, (), True)

    mlm(data, tmp_path / "out", *TRAIN)
    monkeypatch.setattr(run_folder, "push_checkpoint", push_checkpoint)
    mlm(data, tmp_path / "out", *TRAIN, "--resume_from_checkpoint", "last")
    assert pushed == []
    push = ["--push_to_hub", "--hub_model_id", "me/films"]
    mlm(data, tmp_path / "out", *TRAIN, "--resume_from_checkpoint", "last", *push)
    assert pushed == ["me/films"]


def test_a_run_s_folder_without_weights_is_not_said_to_have_pickled_ones(data, tmp_path, capsys):
    mlm(data, tmp_path / "out", *TRAIN)
    (tmp_path / "out" / "model.safetensors").unlink()
    assert cli(["convert", str(tmp_path / "out"), str(tmp_path / "cp")]) == 1
    more = [*options(data, tmp_path / "again"), "--do_eval", "--model_name_or_path", str(tmp_path / "out")]
    assert "it has no model.safetensors" in refusal(capsys, more)


def test_an_evaluation_in_the_folder_of_a_training_is_found_when_it_is_finished(data, tmp_path):
    mlm(data, tmp_path / "out", *TRAIN)
    evaluation = ["--do_eval", "--model_name_or_path", tmp_path / "out", "--resume_from_checkpoint", "last"]
    mlm(data, tmp_path / "out", *evaluation)
    file = tmp_path / "out" / "evaluation.json"
    marked = json.dumps({**json.loads(file.read_text()), "metrics": {}})
    file.write_text(marked)
    mlm(data, tmp_path / "out", *evaluation)
    assert file.read_text() == marked


def test_a_run_that_is_refused_leaves_the_options_of_the_earlier_one(data, tmp_path, capsys):
    mlm(data, tmp_path / "out", *STEPS)
    kept = (tmp_path / "out" / "arguments.yaml").read_bytes()
    fewer = [*STEPS, "--max_steps", "3", "--resume_from_checkpoint", "last"]
    assert "checkpoint-6 has gone 6 steps" in refusal(capsys, [*options(data, tmp_path / "out"), *fewer])
    assert (tmp_path / "out" / "arguments.yaml").read_bytes() == kept


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_a_schedule_that_looks_at_a_metric_goes_on_with_the_same_options(metric, data, tmp_path):
    plateau = ["--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", metric]
    run = [*STEPS, "--eval_strategy", "steps", "--eval_steps", "2", *plateau]
    metrics = mlm(data, tmp_path / "out", *run)
    (tmp_path / "out" / "results.json").unlink()  # as if it had been killed after its last step
    assert mlm(data, tmp_path / "out", *run, "--resume_from_checkpoint", "last") == metrics
