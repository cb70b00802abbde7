# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers imagenet` stopped and going on, in two processes, and with the average of the weights."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from imagenet_cases import (
    CLASSES,
    EACH,
    NEW,
    RESNET,
    ROOT,
    SIDE,
    STILL,
    TRAIN,
    assert_equal_weights,
    by_hand,
    close,
    evaluate,
    imagenet,
    make_material,
    make_parquet,
    of,
    options,
    picture,
    read_images,
    rename,
    results_of,
    save_model,
    train,
    weights,
    write_colours,
    write_pictures,
)
from transformers import AutoModelForImageClassification, Trainer

from cp_transformers.cli import main as cli
from cp_transformers.training import image_evaluation, image_training


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """See [`imagenet_cases.make_material`]."""
    return make_material(tmp_path_factory.mktemp("images"))


@pytest.fixture
def parquet(material, monkeypatch):
    """See [`imagenet_cases.make_parquet`]."""
    return make_parquet(material, monkeypatch)


# Stopping an evaluation, and going on


def stop_after(monkeypatch, images: int) -> None:
    """Interrupts evaluations in this process before they read one more."""
    seen, original = [0], image_evaluation.decode

    def decode(image):
        seen[0] += 1
        if seen[0] > images:
            raise KeyboardInterrupt
        return original(image)

    monkeypatch.setattr(image_evaluation, "decode", decode)


def interrupt(output: Path, *more) -> None:
    """Leaves the count of the first forty images, as a run that is killed does."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 45)
        assert cli(["imagenet", *options(output, *more, "--per_device_eval_batch_size", "1")]) == 130
    assert not (output / "results.json").exists()


def test_a_killed_evaluation_goes_on_where_it_was(material, tmp_path, environment, monkeypatch):
    output = tmp_path / "out"
    stops = """
import sys
from cp_transformers.cli import main
from cp_transformers.training import image_evaluation
original, seen = image_evaluation.decode, [0]
def decode(image):
    seen[0] += 1
    if seen[0] == 45:
        print("reached", flush=True)
        sys.stdin.read()  # until it is killed
    return original(image)
image_evaluation.decode = decode
sys.exit(main(sys.argv[1:]))
"""
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", material / "broken"]
    more += ["--per_device_eval_batch_size", "1"]
    command = [sys.executable, "-c", stops, "imagenet", *options(output, *more)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert any("reached" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (output / "results.json").exists()
    names = read_images(monkeypatch)
    (row,) = imagenet(output, *more, "--resume_from_checkpoint", "last")
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and row["corrupt"] == 2
    assert len(names) == len(CLASSES) * EACH + 2 - 40 and not list(output.rglob("progress/*.json"))


def test_what_is_done_is_not_read_again_in_other_batches(material, tmp_path, monkeypatch):
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", material / "broken"]
    interrupt(tmp_path / "out", *more)
    names = read_images(monkeypatch)
    more += ["--resume_from_checkpoint", "last", "--per_device_eval_batch_size", "7"]
    (row,) = imagenet(tmp_path / "out", *more)
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and len(names) == 18


def test_a_stream_goes_on_where_it_was(parquet, material, tmp_path):
    parquet(("image", "label"), True)
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--dataset_name", "some/images", "--streaming"]
    interrupt(tmp_path / "out", *more)
    (row,) = imagenet(tmp_path / "out", *more, "--resume_from_checkpoint", "last")
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and row["corrupt"] == 2


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_stream_that_is_split_among_processes_goes_on_with_each_ones_own(shards):
    rows = Dataset.from_list([{"image": {"path": str(number)}, "label": number} for number in range(24)])
    stream = rows.to_iterable_dataset(num_shards=shards)
    for done in (0, 4):
        seen = []
        for rank in range(2):
            own = split_dataset_by_node(stream, rank, 2)
            batches = image_evaluation._batches(own, done, 2, 0, preprocessing=None)  # no image can be read
            labels = [example["label"] for batch in batches for example in batch]
            whole = [row["label"] for row in own]
            assert labels == whole[done:]
            seen += labels
        assert len({*seen}) == len(seen) == 24 - 2 * done


@pytest.mark.parametrize("change", ["model", "crop", "size", "normalisation", "folder", "real labels", "anew"])
def test_the_count_of_another_evaluation_is_not_gone_on_with(change, parquet, material, tmp_path):
    data = write_pictures(tmp_path / "data", names="ILSVRC2012_val_{:08d}" if change == "real labels" else "{}")
    output, model, images, more = tmp_path / "out", material / "vit", ["--data_dir", data], []
    if change == "real labels":
        parquet(("image", "label"), True, data)
        images = ["--dataset_name", "some/images"]
    interrupt(output, "--do_eval", "--model_name_or_path", model, *images)
    if change == "model":
        model = save_model(tmp_path / "other", seed=5)
    elif change == "crop":
        more = ["--crop_pct", "0.7"]
    elif change in ("size", "normalisation"):  # of the same weights
        model = shutil.copytree(model, tmp_path / "other")
        other = {"image_std": [0.25, 0.25, 0.25]} if change == "normalisation" else {"resample": 0}
        processor = json.loads((model / "preprocessor_config.json").read_text())
        (model / "preprocessor_config.json").write_text(json.dumps({**processor, **other}))
    elif change == "folder":
        images = ["--data_dir", rename(data, tmp_path / "renamed", CLASSES[::-1])]
    elif change == "real labels":
        (tmp_path / "real.json").write_text(json.dumps([[index % 7] for index in range(60)]))
        more = ["--real_labels", tmp_path / "real.json"]
    resumes = [] if change == "anew" else ["--resume_from_checkpoint", "last"]
    more += ["--do_eval", "--model_name_or_path", model, *images]
    (row,) = imagenet(output, *more, *resumes)
    (fresh,) = imagenet(tmp_path / "fresh", *more)
    assert of(row) == close(fresh) and row["real_top1"] == fresh["real_top1"]


def test_a_finished_evaluation_is_not_done_again(material, tmp_path, monkeypatch):
    first = evaluate(tmp_path / "out", material / "vit", material / "whole")
    names = read_images(monkeypatch)
    again = evaluate(tmp_path / "out", material / "vit", material / "whole", "--resume_from_checkpoint", "last")
    assert again == first and not names


def test_two_processes_count_every_image_once(material, tmp_path, environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "scripts" / "run_imagenet.py"), "--ddp_backend", "gloo"]
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--per_device_eval_batch_size", "5"]
    data = shutil.copytree(material / "broken", tmp_path / "data")
    picture(7, 12, 12).save(data / "fir" / "odd.png")  # an odd number
    command += options(tmp_path / "out", *more, "--data_dir", data)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = results_of(tmp_path / "out")
    assert of(row) == close(by_hand(material / "vit", data)) and row["images"] == len(CLASSES) * EACH + 1
    assert len(set(row["corrupt_images"])) == row["corrupt"] == 2 and done.stdout.count("Written to") == 1


# The average of the weights, and going on with training


STEPS = [*NEW, "--max_steps", "5", "--save_strategy", "steps", "--save_steps", "2"]
STEPS += ["--do_eval", "--logging_steps", "1"]


@pytest.mark.parametrize("kind", ["cp_vit", "cp_resnet"])
def test_the_average_is_the_one_of_the_weights_after_each_step(kind, material, tmp_path, monkeypatch):
    decay, after = 0.25, []
    original = image_training.EmaCallback.on_step_end

    def on_step_end(self, args, state, control, model=None, **kwargs):
        after.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(self, args, state, control, model=model, **kwargs)

    monkeypatch.setattr(image_training.EmaCallback, "on_step_end", on_step_end)
    fields = [] if kind == "cp_vit" else ["--model_config", json.dumps(RESNET), "--image_size", SIDE, "--pool_config"]
    more = [*STEPS, "--model_type", kind, *fields, *(["{}"] if fields else []), "--ema_decay", decay]
    (row,) = train(tmp_path / "out", material / "colours", *more)
    assert len(after) == 5
    saved = weights(tmp_path / "out")
    for name, value in saved.items():
        if value.is_floating_point():
            average = after[0][name]
            for number, each in enumerate(after[1:], start=1):
                slower = min(decay, (1 + number) / (10 + number))
                average = slower * average + (1 - slower) * each[name]
            torch.testing.assert_close(value, average, atol=1e-6, rtol=1e-5)
    assert any(not torch.allclose(saved[name], after[-1][name]) for name in saved)
    assert of(row) == close(by_hand(tmp_path / "out", material / "colours" / "val"))


@pytest.mark.parametrize(
    "ema",
    [[], ["--ema_decay", "0.7"], ["--model_type", "vit"]],
    ids=["without average", "with average", "stock"],
)
def test_training_that_was_stopped_goes_on_as_if_it_had_not_been(ema, material, tmp_path, monkeypatch):
    random = "--crop_min_scale 0.3 --flip 0.5 --rand_augment 5 --random_erasing 0.2 --mixup 0.8 --cutmix 1.0".split()
    (whole,) = train(tmp_path / "whole", material / "colours", *STEPS, *ema, *random)
    output, step = tmp_path / "out", Trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 4:  # in the second epoch of three batches
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        more = ["--data_dir", material / "colours", *TRAIN, *STILL, *STEPS, *ema, *random]
        assert cli(["imagenet", *options(output, *more)]) == 130
    shutil.rmtree(output / "checkpoint-4")  # from the middle of the first epoch on
    (row,) = train(output, material / "colours", *STEPS, *ema, *random, "--resume_from_checkpoint", "last")
    assert_equal_weights(output, tmp_path / "whole", 1e-6)
    assert of(row) == close(whole)


def test_the_best_checkpoint_of_a_stock_model_is_taken_whole(material, tmp_path):
    best = "--load_best_model_at_end true --metric_for_best_model loss --eval_strategy steps --eval_steps 1".split()
    wild = "--learning_rate 0.5 --lr_scheduler_type constant --save_steps 1 --max_steps 3 --model_type vit".split()
    train(tmp_path / "out", material / "colours", *STEPS, *best, *wild)
    state = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state["best_global_step"] < 3
    kept, last = tmp_path / "out" / f"checkpoint-{state['best_global_step']}", tmp_path / "out" / "checkpoint-3"
    ours, theirs, others = (
        AutoModelForImageClassification.from_pretrained(folder).state_dict()
        for folder in (tmp_path / "out", kept, last)
    )
    assert all(torch.equal(ours[name], each) for name, each in theirs.items())
    assert not all(torch.equal(ours[name], each) for name, each in others.items())
    # As upstream names them, so that earlier versions can read the model as well.
    assert any(".encoder.layer." in name for name in weights(tmp_path / "out"))


def test_label_smoothing_is_used_and_recorded(material, tmp_path):
    smoothed = train(tmp_path / "out", material / "colours", *STEPS, "--label_smoothing_factor", "0.1")
    assert json.loads((tmp_path / "out" / "training.json").read_text())["options"]["label_smoothing_factor"] == 0.1
    assert smoothed[0]["loss"] != train(tmp_path / "plain", material / "colours", *STEPS)[0]["loss"]


def test_an_evaluation_is_done_again_when_the_processor_has_changed(material, tmp_path):
    model = shutil.copytree(material / "vit", tmp_path / "vit")
    evaluation = ["--resume_from_checkpoint", "last"]
    first = evaluate(tmp_path / "out", model, material / "whole", *evaluation)
    processor = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps({**processor, "image_std": [0.25, 0.25, 0.25]}))
    again = evaluate(tmp_path / "out", model, material / "whole", *evaluation)
    assert again["loss"] != first["loss"]
    assert of(again) == of(evaluate(tmp_path / "fresh", model, material / "whole"))


def test_a_run_that_is_killed_after_a_deletion_has_a_whole_checkpoint(material, tmp_path, monkeypatch):
    more = [*STEPS, "--ema_decay", "0.7", "--save_total_limit", "1"]
    (whole,) = train(tmp_path / "whole", material / "colours", *more)

    def on_save(self, args, state, control):
        if state.global_step == 4:
            raise KeyboardInterrupt
        return control

    with monkeypatch.context() as patch:
        patch.setattr("transformers.trainer_callback.CallbackHandler.on_save", on_save)
        stopped = options(tmp_path / "out", "--data_dir", material / "colours", *TRAIN, *STILL, *more)
        assert cli(["imagenet", *stopped]) == 130
    assert [path.name for path in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-4"]
    steps, update = [], image_training.EmaCallback.on_step_end
    monkeypatch.setattr(
        image_training.EmaCallback,
        "on_step_end",
        lambda self, args, state, *rest, **more: (
            steps.append(state.global_step) or update(self, args, state, *rest, **more)
        ),
    )
    (row,) = train(tmp_path / "out", material / "colours", *more, "--resume_from_checkpoint", "last")
    assert steps == [5] and of(row) == close(whole)


def test_a_checkpoint_whose_average_was_being_written_is_passed_over(material, tmp_path):
    more = [*STEPS, "--ema_decay", "0.7"]
    (whole,) = train(tmp_path / "out", material / "colours", *more)
    (tmp_path / "out" / "results.json").unlink()
    (tmp_path / "out" / "checkpoint-5" / "ema.safetensors").unlink()
    first = weights(tmp_path / "out")
    (row,) = train(tmp_path / "out", material / "colours", *more, "--resume_from_checkpoint", "last")
    assert of(row) == close(whole)
    for name, value in weights(tmp_path / "out").items():
        torch.testing.assert_close(value, first[name], atol=1e-6, rtol=1e-6)


def test_training_on_after_a_stopped_evaluation_counts_the_new_weights_alone(material, tmp_path):
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(material / "colours" / "train", data / "train")
    write_colours(data / "val", each=16, seed=2)
    constant = [
        "--lr_scheduler_type",
        "constant",
        "--learning_rate",
        "1e-2",
        *STEPS,
        "--per_device_eval_batch_size",
        "1",
    ]
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 45)
        assert cli(["imagenet", *options(output, "--data_dir", data, *TRAIN, *STILL, *constant)]) == 130
    more = ["--max_steps", "9", "--resume_from_checkpoint", "last"]
    (row,) = train(output, data, *constant, *more)
    assert of(row) == close(by_hand(output, data / "val"))
