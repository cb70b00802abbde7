# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The Trainer of every command: the best checkpoint, and what it evaluates."""

import json
import shutil
from pathlib import Path

import pytest
from mlm_cases import TRAIN, make_data, mlm, options, refusal, weights
from transformers import TrainingArguments

from cp_transformers.cli import main as cli
from cp_transformers.training.trainer import check_metrics, trainer_arguments


STEPS = ["--do_train", "--do_eval", "--max_steps", "6", "--save_steps", "2", "--per_device_train_batch_size", "5"]
BEST = ["--eval_strategy", "steps", "--eval_steps", "2", "--load_best_model_at_end", "true"]
WILD = ["--learning_rate", "1.0", "--lr_scheduler_type", "constant"]  # so that the last steps are not the best


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """See [`mlm_cases.make_data`]."""
    return make_data(tmp_path_factory.mktemp("texts"))


def history(output: Path, metric: str) -> dict[int, float]:
    """By the step, what was measured."""
    state = json.loads((output / "checkpoint-6" / "trainer_state.json").read_text())
    return {each["step"]: each[f"eval_{metric}"] for each in state["log_history"] if f"eval_{metric}" in each}


@pytest.mark.parametrize("given", [[], ["--metric_for_best_model", "perplexity"]], ids=["loss", "perplexity"])
def test_the_best_checkpoint_is_that_of_the_lowest_loss(given, data, tmp_path):
    metrics = mlm(data, tmp_path / "out", *STEPS, *BEST, *WILD, *given)
    metric = (given or ["loss"])[-1]
    assert f"| metric_for_best_model | {metric} |" in (tmp_path / "out" / "README.md").read_text()
    measured = history(tmp_path / "out", "perplexity")
    assert len({*measured.values()}) == 3 and min(measured, key=measured.__getitem__) != 6
    assert metrics["perplexity"] == pytest.approx(min(measured.values()))


@pytest.mark.parametrize(
    ("metric", "greater"), [("loss", False), ("eval_hidden", False), ("logits", False), ("accuracy", True)]
)
def test_which_way_is_better_is_known_of_every_metric(metric, greater, tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    training = TrainingArguments(str(tmp_path), metric_for_best_model=metric, **best)
    given = training.to_dict()
    check_metrics(training, ["loss", "hidden", "logits", "accuracy"])
    assert trainer_arguments(training).greater_is_better is greater
    assert training.to_dict() == given  # by which a run is known that goes on


@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("loss", None)])
def test_a_schedule_that_looks_at_a_metric_knows_which_way_is_better(metric, mode, tmp_path):
    best = {"eval_strategy": "epoch", "metric_for_best_model": metric}
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 3}}
    training = TrainingArguments(str(tmp_path), **best, **plateau)
    given = training.to_dict()
    check_metrics(training, ["loss", "accuracy"])
    expected = {"patience": 3, **({} if mode is None else {"mode": mode})}
    assert trainer_arguments(training).lr_scheduler_kwargs == expected and training.to_dict() == given


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label_names", "label"], "leave out --label_names"),
        (["--metric_for_best_model", "f1"], "no metric f1 for metric_for_best_model; there are loss, perplexity, acc"),
        (["--eval_do_concat_batches", "false"], "need all predictions: leave out prediction_loss_only"),
        (["--do_predict"], "nothing to predict here"),
        ([*BEST, "--save_strategy", "steps", "--save_steps", "4"], "give --save_steps 2, as --eval_steps, or"),
        (["--accelerator_config", '{"dispatch_batches": true}'], "leave dispatch_batches out of --accelerator_config"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps must be positive, not 0"),
    ],
)
def test_what_would_fail_after_training_is_refused_before(more, message, data, tmp_path, capsys):
    assert message in refusal(capsys, [*options(data, tmp_path / "out"), *TRAIN, *more])
    assert not (tmp_path / "out").exists()


def test_the_best_checkpoint_is_found_where_the_run_lies_now(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ["--do_train", "--num_train_epochs", "3", "--load_best_model_at_end", "true", *WILD]
    run += ["--eval_strategy", "epoch", "--save_strategy", "epoch"]
    mlm(data, Path("out"), *run)
    expected, last = weights(tmp_path / "out"), weights(tmp_path / "out" / "checkpoint-9")
    assert any((expected[name] != last[name]).any() for name in expected)
    moved = shutil.move(tmp_path / "out", tmp_path / "moved")
    for name in ("results.json", "model.safetensors"):  # as if it had been killed after its last step
        (moved / name).unlink()
    mlm(data, moved, *run, "--resume_from_checkpoint", "last")
    found = weights(moved)
    assert all((found[name] == expected[name]).all() for name in expected)


def test_rows_that_fill_no_batch_are_refused(data, tmp_path, capsys):
    more = [*TRAIN, "--dataloader_drop_last", "true", "--per_device_train_batch_size", "100"]
    message = refusal(capsys, [*options(data, tmp_path / "out"), *more])
    assert "rows to train on fill no batch of 100 in each process: leave out --dataloader_drop_last" in message
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("batch", ["5", "64"])
def test_what_is_evaluated_in_training_is_all_of_it(batch, data, tmp_path):
    more = ["--eval_strategy", "steps", "--eval_steps", "6", "--per_device_eval_batch_size", batch]
    metrics = mlm(data, tmp_path / "out", *STEPS, *more, "--dataloader_drop_last", "true")
    assert history(tmp_path / "out", "tokens") == {6: metrics["tokens"]}
    assert history(tmp_path / "out", "loss") == {6: pytest.approx(metrics["loss"])}


def test_a_model_that_has_diverged_has_no_results(data, tmp_path, capsys):
    more = ["--do_train", "--do_eval", "--max_steps", "4", "--save_strategy", "no", "--learning_rate", "1e30"]
    assert cli(["mlm", *options(data, tmp_path / "out"), *more]) == 1
    assert "its training has diverged. Start anew with a lower --learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
