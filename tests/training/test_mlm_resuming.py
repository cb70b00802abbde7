# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers mlm` stopped and going on, and in several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlm_cases import (
    TEXTS,
    TRAIN,
    make_data,
    make_tokenizer,
    make_trained,
    mlm,
    options,
    record_rows,
    refusal,
    results_of,
    weights,
)
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoTokenizer

from cp_transformers.training import mlm as task
from cp_transformers.training.mlm import IGNORED


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """See [`mlm_cases.make_data`]."""
    return make_data(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data, cache) -> Path:
    """See [`mlm_cases.make_trained`]."""
    return make_trained(data, tmp_path_factory.mktemp("trained") / "out")


@pytest.fixture
def seen(monkeypatch) -> dict[str, list[dict]]:
    """See [`mlm_cases.record_rows`]."""
    return record_rows(monkeypatch)


# Stopping, and going on

STEPS = ["--do_train", "--do_eval", "--max_steps", "10", "--save_steps", "2", "--learning_rate", "1e-2"]
STEPS += ["--per_device_train_batch_size", "5"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data, cache) -> Path:
    """The output of a run over more than an epoch, in the midst of which there are checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    mlm(data, folder, *STEPS)
    epochs = [
        json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())["epoch"] for step in (4, 6)
    ]
    assert 0 < epochs[0] < 1 < epochs[1] < 2
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory, data, cache) -> Path:
    """The output of a run that was killed in its second epoch."""
    output = tmp_path_factory.mktemp("killed") / "out"
    stops = """
import sys, transformers
from cp_transformers.cli import main
step = transformers.Trainer.training_step
def training_step(self, *args, **kwargs):
    if self.state.global_step == 7:
        print("reached", flush=True)
        sys.stdin.read()  # until it is killed
    return step(self, *args, **kwargs)
transformers.Trainer.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", stops, "mlm", *options(data, output, *STEPS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert any("reached" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert sorted(path.name for path in output.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
        "checkpoint-6",
    ]
    assert not (output / "results.json").exists()
    return output


def test_a_killed_run_goes_on_as_if_it_had_not_been(data, whole, killed, tmp_path):
    output = shutil.copytree(killed, tmp_path / "out")
    resumed = mlm(data, output, *STEPS, "--resume_from_checkpoint", "last")
    assert resumed == pytest.approx(results_of(whole)["metrics"], abs=1e-5, rel=1e-5)
    assert_close(weights(output), weights(whole), rtol=0, atol=1e-6)


def test_rows_that_are_sorted_by_length_go_on_in_the_same_order(data, tmp_path):
    by_length = [*STEPS, "--max_steps", "16", "--train_sampling_strategy", "group_by_length"]
    expected = mlm(data, tmp_path / "whole", *by_length)
    output = shutil.copytree(tmp_path / "whole", tmp_path / "out")
    for name in ("results.json", "model.safetensors"):
        (output / name).unlink()
    for step in (14, 16):  # to go on in the midst of the second epoch
        shutil.rmtree(output / f"checkpoint-{step}")
    assert mlm(data, output, *by_length, "--resume_from_checkpoint", "last") == pytest.approx(
        expected, abs=1e-5, rel=1e-5
    )
    assert_close(weights(output), weights(tmp_path / "whole"), rtol=0, atol=1e-6)


def test_an_evaluation_leaves_what_a_training_goes_on_by(data, tmp_path, capsys):
    first = [*TRAIN, "--save_strategy", "steps", "--save_steps", "1"]
    mlm(data, tmp_path / "out", *first)
    kept, again = (tmp_path / "out" / "arguments.yaml").read_text(), ["--resume_from_checkpoint", "last"]
    mlm(data, tmp_path / "out", "--do_eval", "--model_name_or_path", tmp_path / "out", *again)
    assert (tmp_path / "out" / "arguments.yaml").read_text() == kept
    more = ["--learning_rate", "0.5", "--max_steps", "3", *again]
    assert "learning_rate is 0.5, but" in refusal(capsys, [*options(data, tmp_path / "out"), *first, *more])


def test_a_run_of_a_fraction_of_an_epoch_can_be_ended(data, tmp_path):
    part = ["--do_train", "--num_train_epochs", "0.3", "--save_strategy", "steps", "--save_steps", "1"]
    mlm(data, tmp_path / "out", *part)
    state = json.loads(max((tmp_path / "out").glob("checkpoint-*/trainer_state.json")).read_text())
    assert state["epoch"] > 0.3
    (tmp_path / "out" / "results.json").unlink()  # as if it had been killed after its last step
    mlm(data, tmp_path / "out", *part, "--resume_from_checkpoint", "last")


@pytest.mark.parametrize("fewer", [["--max_steps", "1"], ["--max_steps", "-1", "--num_train_epochs", "0.1"]])
def test_a_run_is_not_to_go_back(fewer, data, tmp_path, capsys):
    first = [*TRAIN, "--save_strategy", "steps", "--save_steps", "1"]
    mlm(data, tmp_path / "out", *first)
    again = [*options(data, tmp_path / "out"), *first, *fewer, "--resume_from_checkpoint", "last"]
    assert "has gone 2 steps" in refusal(capsys, again)


def test_a_run_does_not_go_on_with_other_options_than_its_own(data, tmp_path, capsys):
    first = [*TRAIN, "--save_strategy", "steps", "--save_steps", "1"]
    mlm(data, tmp_path / "out", *first)
    kept = (tmp_path / "out" / "arguments.yaml").read_text()
    changed = {"learning_rate": "0.001", "mlm_probability": "0.3", "seed": "1", "neftune_noise_alpha": "5.0"}
    changed |= {"dataloader_drop_last": "True", "optim_args": "beta1=0.8", "lr_scheduler_kwargs": '{"num_cycles": 2}'}
    for name, value in changed.items():
        more = [f"--{name}", value, "--max_steps", "3", "--resume_from_checkpoint", "last"]
        message = refusal(capsys, [*options(data, tmp_path / "out"), *first, *more])
        assert f"{name} is {value}, but it was".replace('"', "'") in message
    assert (tmp_path / "out" / "arguments.yaml").read_text() == kept


def test_checkpoints_of_an_earlier_run_are_not_mixed_with_others(data, tmp_path, capsys):
    (tmp_path / "out" / "checkpoint-7").mkdir(parents=True)
    assert "checkpoint-7 is of an earlier run" in refusal(capsys, [*options(data, tmp_path / "out"), *TRAIN])


def test_another_checkpoint_is_evaluated_although_a_run_is_finished(data, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "other")
    tensors = {name: value + 0.1 for name, value in weights(trained).items()}
    save_file(tensors, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    measured = [
        mlm(data, tmp_path / "out", "--do_eval", "--model_name_or_path", model, "--resume_from_checkpoint", "last")
        for model in (trained, tmp_path / "other", tmp_path / "other")
    ]
    assert measured[0]["loss"] != measured[1]["loss"] and measured[1] == measured[2]


def test_a_streamed_run_goes_on_in_a_later_pass_as_if_it_had_not_stopped(data, tmp_path):
    few = ["--streaming", "--max_train_samples", "8", "--per_device_train_batch_size", "2", "--lr_scheduler_type"]
    steps = [*TRAIN, *few, "constant", "--save_strategy", "steps", "--save_steps", "4"]
    mlm(data, tmp_path / "whole", *steps, "--max_steps", "7")
    mlm(data, tmp_path / "stopped", *steps, "--max_steps", "4")
    mlm(data, tmp_path / "stopped", *steps, "--max_steps", "7", "--resume_from_checkpoint", "last")
    assert_close(weights(tmp_path / "stopped"), weights(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.parametrize("more", [[], ["--pack", "false"], ["--streaming"]], ids=["packed", "unpacked", "streaming"])
def test_a_run_goes_on_from_the_midst_of_an_epoch_as_if_it_had_not_stopped(more, data, tmp_path):
    mlm(data, tmp_path / "out", *STEPS, *more)
    expected, metrics = weights(tmp_path / "out"), results_of(tmp_path / "out")["metrics"]
    (tmp_path / "out" / "results.json").unlink()
    for step in (10, 8, 6):  # as if they were being written
        (tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json").unlink()
    assert mlm(data, tmp_path / "out", *STEPS, *more, "--resume_from_checkpoint", "last") == metrics
    assert_close(weights(tmp_path / "out"), expected, rtol=0, atol=1e-6)


def test_a_finished_run_is_not_run_again(data, tmp_path, capsys):
    metrics = mlm(data, tmp_path / "out", *TRAIN, "--do_eval")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert mlm(data, tmp_path / "out", *TRAIN, "--do_eval", "--resume_from_checkpoint", "last") == metrics
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_full_disk_is_told_in_a_sentence_and_the_run_goes_on_where_there_is_room(data, whole, tmp_path, environment):
    """The disk is full when the second checkpoint's weights, or its optimiser's state, are written."""
    size = (whole / "model.safetensors").stat().st_size
    fills = """
import json, resource, sys, transformers
from cp_transformers.cli import main
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
step, limit = transformers.Trainer.training_step, None
def training_step(self, *args, **kwargs):
    if self.state.global_step == 3:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    return step(self, *args, **kwargs)
transformers.Trainer.training_step = training_step
for limit, args in json.loads(sys.argv[1]):
    print("BEGIN", file=sys.stderr)
    try:
        print("status", main(args), file=sys.stderr)
    except BaseException as error:
        print("Traceback", type(error).__name__, error, file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
"""
    outputs = {tmp_path / "weights": size // 2, tmp_path / "optimizer": size + size // 2}
    runs = [(limit, ["mlm", *options(data, output, *STEPS)]) for output, limit in outputs.items()]
    command = [sys.executable, "-c", fills, json.dumps(runs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    told = done.stderr.split("BEGIN\n")[1:]
    assert len(told) == 2, done.stderr[-3000:]
    for output in outputs:
        assert (output / "checkpoint-2" / "trainer_state.json").is_file()
        assert not (output / "results.json").exists() and not (output / "checkpoint-4" / "trainer_state.json").exists()
        assert mlm(data, output, *STEPS, "--resume_from_checkpoint", "last") == pytest.approx(
            results_of(whole)["metrics"], abs=1e-5, rel=1e-5
        )
        assert_close(weights(output), weights(whole), rtol=0, atol=1e-6)
    for text in told:
        assert "Traceback" not in text and "status 1" in text, text[-2000:]
        assert [line for line in text.splitlines() if line.startswith("cp-transformers: ")], text[-2000:]


# Several processes


IN_TURN = """
import json, sys
from cp_transformers.cli import end_together
from cp_transformers.training import mlm
for args in json.loads(sys.argv[1]):
    mlm.main(args)
end_together()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory, data, cache) -> tuple[Path, str]:
    """The output of two processes that trained and evaluated, and what they printed; beside it that of a longer run,
    and of one that was stopped and went on."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "in_turn.py").write_text(IN_TURN)
    steps = [*TRAIN, "--save_strategy", "steps", "--save_steps", "2", "--lr_scheduler_type", "constant"]
    runs = [
        ("out", [*TRAIN, "--do_eval", "--per_device_eval_batch_size", "3"]),
        ("whole", [*steps, "--max_steps", "4"]),
        ("stopped", [*steps, "--max_steps", "2"]),
        ("stopped", [*steps, "--max_steps", "4", "--resume_from_checkpoint", "last"]),
        ("streamed", [*TRAIN, "--streaming", "--max_steps", "4", "--per_device_train_batch_size", "1"]),
    ]
    in_turn = [["--ddp_backend", "gloo", *options(data, folder / name, *more)] for name, more in runs]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(folder / "in_turn.py"), json.dumps(in_turn)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out", done.stdout


def test_two_processes_share_a_stream_of_rows_of_several_lengths(two):
    assert (two[0].parent / "streamed" / "model.safetensors").is_file()


def test_two_processes_go_on_as_if_they_had_not_stopped(two):
    folder = two[0].parent
    assert_close(weights(folder / "stopped"), weights(folder / "whole"), rtol=0, atol=0)


def test_two_processes_write_one_set_of_files(two):
    output, printed = two
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert {"arguments.yaml", "results.json", "model.safetensors", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith(".new")] and printed.count("Written to") == 5  # once a run


def test_two_processes_count_every_token_once(two, data, tmp_path, seen, tokenizer):
    output, _ = two
    one = mlm(data, tmp_path / "one", "--do_eval", "--model_name_or_path", output)
    assert len(seen["validation"]) % 6  # so that the last batch is filled up
    assert results_of(output)["metrics"] == pytest.approx(one, abs=1e-5, rel=1e-5)
    assert one["tokens"] == sum(int((row["labels"] != IGNORED).sum()) for row in seen["validation"])
    assert AutoTokenizer.from_pretrained(output).get_vocab() == tokenizer.get_vocab()


def test_the_trained_vocabulary_is_the_same_in_other_processes(killed, two, tokenizer):
    """One of them with another order of hashes, and stopped before it was done."""
    for output in (killed, two[0]):
        assert AutoTokenizer.from_pretrained(output).get_vocab() == tokenizer.get_vocab()
    for _ in range(3):
        assert task.train_tokenizer(TEXTS["train"], 120).get_vocab() == tokenizer.get_vocab()
