# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What the runs of every task share: the best checkpoint, going on, files by name, and what is pushed."""

import json
import os
import shutil
from pathlib import Path

import pytest
from mlm_cases import MAX_LENGTH, TRAIN, make_data, mlm, options, refusal, results_of, weights
from transformers import TrainingArguments

from cp_transformers.checkpoints.hub import Pushed
from cp_transformers.cli import main as cli
from cp_transformers.files import check_csv
from cp_transformers.training import records
from cp_transformers.training.data_files import load_file
from cp_transformers.training.mlm import MlmArguments
from cp_transformers.training.runs import asked_for, check_metrics, for_trainer, last_checkpoint


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


# The best checkpoint


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
    assert for_trainer(training).greater_is_better is greater
    assert training.to_dict() == given  # by which a run is known that goes on


@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("loss", None)])
def test_a_schedule_that_looks_at_a_metric_knows_which_way_is_better(metric, mode, tmp_path):
    best = {"eval_strategy": "epoch", "metric_for_best_model": metric}
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 3}}
    training = TrainingArguments(str(tmp_path), **best, **plateau)
    given = training.to_dict()
    check_metrics(training, ["loss", "accuracy"])
    expected = {"patience": 3, **({} if mode is None else {"mode": mode})}
    assert for_trainer(training).lr_scheduler_kwargs == expected and training.to_dict() == given


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


# Going on


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


def test_rows_that_fill_no_batch_are_refused(data, tmp_path, capsys):
    more = [*TRAIN, "--dataloader_drop_last", "true", "--per_device_train_batch_size", "100"]
    message = refusal(capsys, [*options(data, tmp_path / "out"), *more])
    assert "rows to train on fill no batch of 100 in each process: leave out --dataloader_drop_last" in message
    assert not (tmp_path / "out" / "model.safetensors").exists()


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
    first = asked_for(training, arguments)
    assert first == asked_for(training, arguments)
    (tmp_path / "texts" / "there.txt").write_text("a text")
    assert first != asked_for(training, arguments)


def test_a_finished_run_is_pushed_when_that_is_asked_for_later(data, tmp_path, monkeypatch):
    pushed = []

    def push_checkpoint(folder, repo, **options) -> Pushed:
        pushed.append(repo)
        return Pushed("url", "0" * 40, (), True)

    mlm(data, tmp_path / "out", *TRAIN)
    monkeypatch.setattr(records, "push_checkpoint", push_checkpoint)
    mlm(data, tmp_path / "out", *TRAIN, "--resume_from_checkpoint", "last")
    assert pushed == []
    push = ["--push_to_hub", "--hub_model_id", "me/films"]
    mlm(data, tmp_path / "out", *TRAIN, "--resume_from_checkpoint", "last", *push)
    assert pushed == ["me/films"]


# Files


def test_the_name_of_a_file_is_no_pattern(tmp_path):
    for name in ("d1", "d[1]", "d?", "d*"):
        (tmp_path / f"{name}.txt").write_text(f"of {name}\n")
    for name in ("d1", "d[1]", "d?", "d*"):
        assert load_file(tmp_path / f"{name}.txt")["text"] == [f"of {name}"]


def test_rows_with_more_fields_than_the_header_are_refused(tmp_path):
    (tmp_path / "shifted.csv").write_text("text,label\ngood film,pos,ann0\nbad film,neg,ann1\n")
    with pytest.raises(ValueError, match="header names 2 columns, and its first row has more fields"):
        load_file(tmp_path / "shifted.csv")
    (tmp_path / "quoted.csv").write_text('\ufefftext,label\n"good, warm",pos\nbad,neg\n', encoding="utf-8")
    assert load_file(tmp_path / "quoted.csv")["text"] == ["good, warm", "bad"]
    (tmp_path / "long.csv").write_text("text,label\n" + "good " * 40_000 + ",pos\n")
    assert len(load_file(tmp_path / "long.csv")["text"][0]) == 200_000


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


def test_the_card_says_what_was_trained_on_and_what_was_evaluated(data, tmp_path):
    mlm(data, tmp_path / "out", *TRAIN, "--do_eval")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"up to 40 tokens, of which training has seen {MAX_LENGTH};" in card
    assert "on local files named `train.txt`" in card and "| validation.txt | validation | perplexity |" in card
    named = json.loads((tmp_path / "out" / "training.json").read_text())["data"]
    assert (named["name"], named["held_out"]) == ("train.txt", "validation.txt")


def test_a_run_s_folder_without_weights_is_not_said_to_have_pickled_ones(data, tmp_path, capsys):
    mlm(data, tmp_path / "out", *TRAIN)
    (tmp_path / "out" / "model.safetensors").unlink()
    assert cli(["convert", str(tmp_path / "out"), str(tmp_path / "cp")]) == 1
    more = [*options(data, tmp_path / "again"), "--do_eval", "--model_name_or_path", str(tmp_path / "out")]
    assert "it has no model.safetensors" in refusal(capsys, more)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("out.png", ValueError, "must end in .csv"),
        ("folder.csv", OSError, "Is a directory"),
        ("file/out.csv", OSError, "cannot be written"),
    ],
)
def test_where_figures_cannot_be_written_is_known_before_they_are_measured(name, error, message, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(error, match=message):
        check_csv(tmp_path / name)
    check_csv(tmp_path / "new" / "out.csv")
    assert [*(tmp_path / "new").iterdir()] == []
