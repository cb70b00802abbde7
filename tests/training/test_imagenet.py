# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""`cp-transformers imagenet` on small models and folders: evaluation and training."""

import csv
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image as ImageFeature, Value
from imagenet_cases import (
    CLASSES,
    EACH,
    METRICS,
    NEW,
    RESNET,
    ROOT,
    SIDE,
    STILL,
    TRAIN,
    VIT,
    assert_equal_weights,
    by_hand,
    close,
    evaluate,
    imagenet,
    logits_by_hand,
    make_material,
    make_parquet,
    metrics_by_hand,
    of,
    options,
    rename,
    results_of,
    save_model,
    train,
    weights,
    write_pictures,
)
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, Trainer, pipeline

from cp_transformers.cli import main as cli
from cp_transformers.training import image_data
from cp_transformers.training.imagenet_arguments import ImageNetArguments


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """See [`imagenet_cases.make_material`]."""
    return make_material(tmp_path_factory.mktemp("images"))


@pytest.fixture
def parquet(material, monkeypatch):
    """See [`imagenet_cases.make_parquet`]."""
    return make_parquet(material, monkeypatch)


# Evaluation


def test_files_take_the_place_of_the_data_set_that_a_configuration_names():
    assert ImageNetArguments(dataset_name="digits", data_dir="mine").dataset_name is None


@pytest.mark.parametrize("kind", ["vit", "cp_resnet"])
def test_metrics_are_those_of_a_loop_by_hand(kind, material, tmp_path, capsys):
    row = evaluate(tmp_path / "out", material / kind, material / "broken", "--per_device_eval_batch_size", "9")
    assert of(row) == close(by_hand(material / kind, material / "broken"))
    assert 0 < row["top1"] < row["top5"] < 1  # or a mistake could not be seen
    assert row["images"] == len(CLASSES) * EACH and row["corrupt"] == 2
    named = [Path(message.split(":")[0]).name for message in row["corrupt_images"]]
    assert sorted(named) == ["cut.jpg", "empty.png"]
    printed = capsys.readouterr().out
    assert "cut.jpg" in printed and "empty.png" in printed
    model = AutoModelForImageClassification.from_pretrained(material / kind)
    assert row["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert (row["real_top1"], row["image_size"], row["dtype"]) == (None, "16", "float32")


@pytest.mark.parametrize(
    "more",
    [
        ["--per_device_eval_batch_size", "1"],
        ["--per_device_eval_batch_size", "5", "--dataloader_num_workers", "2"],
        ["--channels_last"],
    ],
    ids=lambda more: more[-1],
)
def test_options_of_loading_change_no_metric(more, material, tmp_path):
    row = evaluate(tmp_path / "out", material / "cp_resnet", material / "broken", *more)
    assert of(row) == close(by_hand(material / "cp_resnet", material / "broken")) and row["corrupt"] == 2


def test_reduced_precision_changes_little(material, tmp_path):
    exact = by_hand(material / "vit", material / "whole")
    row = evaluate(tmp_path / "out", material / "vit", material / "whole", "--bf16_full_eval", "true")
    assert row["dtype"] == "bfloat16" and row["loss"] != exact["loss"]
    assert row["loss"] == pytest.approx(exact["loss"], rel=0.05) and abs(row["top1"] - exact["top1"]) < 0.15


@pytest.mark.parametrize("kind", ["other order", "upper case", "numerals", "unnamed"])
def test_labels_are_the_model_s_whatever_they_are_called(kind, material, tmp_path):
    labels, names = CLASSES, CLASSES
    if kind == "other order":
        labels = [CLASSES[index] for index in (3, 0, 6, 2, 1, 5, 4)]
    elif kind == "upper case":
        labels = [name.upper().replace("_", " ") for name in CLASSES]
    elif kind == "numerals":
        labels, names = [f"thing {index}" for index in range(12)], ["0", "10", "2", "11", "4", "9", "6"]
    elif kind == "unnamed":
        labels = None
    model = save_model(tmp_path / "model", labels=labels, **({"num_labels": 7} if labels is None else {}))
    data = rename(material / "whole", tmp_path / "data", names)
    expected = {"other order": labels, "numerals": [str(index) for index in range(12)]}.get(kind, names)
    assert of(evaluate(tmp_path / "out", model, data)) == close(by_hand(model, data, expected))


def test_several_checkpoints_are_evaluated_as_each_alone(material, tmp_path):
    names = ["vit", "cp_resnet"]
    both = ["--do_eval", "--model_name_or_path", *(material / name for name in names)]
    rows = imagenet(tmp_path / "both", *both, "--data_dir", material / "broken")
    alone = [evaluate(tmp_path / name, material / name, material / "broken") for name in names]
    for row in (*rows, *alone):
        del row["images_per_second"]
    assert rows == alone and [row["model"] for row in rows] == [str(material / name) for name in names]
    with open(tmp_path / "both" / "results.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert len(written) == 2
    for row, line in zip(results_of(tmp_path / "both"), written):
        assert line == {name: "" if row[name] is None else str(row[name]) for name in line}
        assert {"model", "top1", "top5", "real_top1", "loss", "images", "corrupt", "parameters"} <= set(line)


def test_an_image_of_another_size_than_the_model_s(material, tmp_path):
    row = evaluate(tmp_path / "out", material / "vit", material / "whole", "--image_size", "24")
    files = list((material / "whole").rglob("*.*"))
    network = AutoModelForImageClassification.from_pretrained(material / "vit").eval()
    processor = AutoImageProcessor.from_pretrained(material / "vit")
    size = {"height": 24, "width": 24}
    with torch.no_grad():
        images = [processor(Image.open(file).convert("RGB"), size=size, return_tensors="pt") for file in files]
        logits = torch.cat([network(**each, interpolate_pos_encoding=True).logits for each in images])
    expected = metrics_by_hand(logits, [CLASSES.index(path.parent.name) for path in files])
    assert of(row) == close(expected) and row["image_size"] == "24"
    plain = by_hand(material / "vit", material / "whole")
    assert abs(row["loss"] - plain["loss"]) > 1e-3


def test_crop_and_interpolation_are_reported_and_used(material, tmp_path):
    more = ["--crop_pct", "0.5", "--interpolation", "bilinear"]
    row = evaluate(tmp_path / "out", material / "cp_resnet", material / "whole", *more)
    assert (row["crop_pct"], row["interpolation"]) == (0.5, "bilinear")
    assert abs(row["loss"] - by_hand(material / "cp_resnet", material / "whole")["loss"]) > 1e-3


@pytest.mark.parametrize("source", ["folder", "data set"])
def test_real_labels_are_counted_by_the_numbers_of_the_images(source, parquet, material, tmp_path):
    data = write_pictures(tmp_path / "data", names="ILSVRC2012_val_{:08d}", each=4)
    (data / "ash" / "ILSVRC2012_val_00000000.jpg").rename(data / "ash" / "ILSVRC2012_val_00000028.jpg")  # from 1 on
    real = [[] if index % 5 == 0 else [index % 7, (index + 3) % 7] for index in range(28)]
    (tmp_path / "real.json").write_text(json.dumps(real))
    parquet(("image", "label"), True, data)
    images = ["--data_dir", data] if source == "folder" else ["--dataset_name", "some/images"]
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--real_labels", tmp_path / "real.json"]
    (row,) = imagenet(tmp_path / "out", *more, *images)
    files = list(data.rglob("*.*"))
    guesses = logits_by_hand(material / "vit", files).argmax(-1).tolist()
    allowed = [real[int(path.stem[-8:]) - 1] for path in files]
    counted = [guess in labels for guess, labels in zip(guesses, allowed) if labels]
    assert row["real_top1"] == pytest.approx(sum(counted) / len(counted))
    assert of(row) == close(by_hand(material / "vit", data))


def test_real_labels_of_a_model_with_another_order_are_refused(material, tmp_path, capsys):
    data = write_pictures(tmp_path / "data", names="ILSVRC2012_val_{:08d}", each=4)
    (tmp_path / "real.json").write_text(json.dumps([[index % 7] for index in range(28)]))
    model = save_model(tmp_path / "model", labels=CLASSES[::-1])
    more = ["--do_eval", "--data_dir", data, "--model_name_or_path", model, "--real_labels", tmp_path / "real.json"]
    assert cli(["imagenet", *options(tmp_path / "out", *more)]) == 1
    assert "ReaL labels are numbers in ImageNet's order, and the classes of" in capsys.readouterr().err


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("columns", "named"), [(("image", "label"), True), (("jpg", "cls"), False)])
def test_a_data_set_of_the_hub_gives_the_same_as_the_folder(columns, named, streaming, parquet, material, tmp_path):
    parquet(columns, named)
    more = ["--dataset_name", "some/images", "--do_eval", "--model_name_or_path", material / "vit"]
    (row,) = imagenet(tmp_path / "out", *more, *(["--streaming"] if streaming else []))
    assert of(row) == close(by_hand(material / "vit", material / "broken")) and row["corrupt"] == 2


@pytest.mark.parametrize("streaming", [False, True])
def test_so_many_images_are_evaluated_as_are_asked_for(streaming, parquet, material, tmp_path):
    parquet(("image", "label"), True)
    more = ["--dataset_name", "some/images", "--do_eval", "--model_name_or_path", material / "vit"]
    more += ["--max_eval_samples", "12", *(["--streaming"] if streaming else [])]
    (row,) = imagenet(tmp_path / "out", *more)
    files = sorted((material / "broken").rglob("*.*"))
    order = Dataset.from_dict({"file": range(len(files))}).shuffle(seed=0)["file"]  # of all classes
    files = files[:12] if streaming else [files[number] for number in order[:12]]
    good = [file for file in files if file.name not in ("cut.jpg", "empty.png")]
    expected = metrics_by_hand(
        logits_by_hand(material / "vit", good), [CLASSES.index(file.parent.name) for file in good]
    )
    assert of(row) == close(expected) and row["images"] + row["corrupt"] == 12


# Training


@pytest.mark.slow
@pytest.mark.parametrize(("config", "kind"), [("tiny", "cp_vit"), ("tiny", "vit"), ("tiny_resnet", "cp_resnet")])
def test_the_small_configurations_train(config, kind, tmp_path):
    output = tmp_path / "out"
    more = ["--config", ROOT / "configs" / "imagenet" / f"{config}.yaml", "--model_type", kind, "--max_steps", "2"]
    more += ["--max_train_samples", "32", "--max_eval_samples", "40", "--per_device_train_batch_size", "8"]
    (row,) = imagenet(output, *more)
    model = AutoModelForImageClassification.from_pretrained(output)
    assert model.config.model_type == kind and model.config.id2label == {index: str(index) for index in range(10)}
    assert row["model"] == str(output) and row["images"] == 40 and row["image_size"] == "28"
    assert AutoImageProcessor.from_pretrained(output).size == {"height": 28, "width": 28}


@pytest.mark.parametrize("kind", ["cp_vit", "vit", "cp_resnet", "resnet"])
def test_every_kind_is_trained_saved_and_loaded_again(kind, material, tmp_path):
    output = tmp_path / "out"
    fields = VIT if "vit" in kind else RESNET
    more = ["--do_eval", "--model_type", kind, "--model_config", json.dumps(fields)]
    more += [] if "vit" in kind else ["--image_size", SIDE]
    mixing = "--crop_min_scale 0.3 --flip 0.5 --rand_augment 5 --random_erasing 0.2 --mixup 0.8 --cutmix 1.0".split()
    (row,) = train(output, material / "colours", *more, *mixing)
    assert of(row) == close(by_hand(output, material / "colours" / "val"))
    again = evaluate(tmp_path / "again", output, material / "colours")
    assert of(again) == of(row)
    classify = pipeline("image-classification", str(output), device="cpu")
    guesses = classify(str(material / "colours" / "val" / CLASSES[0] / "0.png"))
    assert {guess["label"] for guess in guesses} == set(CLASSES[:3])
    assert AutoModelForImageClassification.from_pretrained(output).config.model_type == kind


def test_what_can_be_learned_is_learned(material, tmp_path):
    learns = [*NEW, "--do_eval", "--max_steps", "60", "--learning_rate", "1e-2"]
    (row,) = train(tmp_path / "out", material / "colours", *learns)
    assert row["top1"] == row["top5"] == 1.0 and row["images"] == 12


def test_fine_tuning_keeps_the_order_of_the_checkpoint_s_labels(material, tmp_path):
    labels = [CLASSES[index].upper() for index in (2, 0, 1)]
    model = save_model(tmp_path / "model", labels=labels, initializer_range=0.02)
    more = ["--model_name_or_path", model, "--do_eval", "--max_steps", "40", "--learning_rate", "1e-2"]
    (row,) = train(tmp_path / "out", material / "colours", *more)
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "out").config
    assert list(config.id2label.values()) == labels and row["top1"] == 1.0
    expected = by_hand(tmp_path / "out", material / "colours" / "val", [CLASSES[index] for index in (2, 0, 1)])
    assert of(row) == close(expected)


@pytest.mark.parametrize("kind", ["vit", "cp_resnet"])
@pytest.mark.parametrize("labels", [CLASSES, CLASSES[:3]], ids=["of another size", "of the same size"])
def test_a_new_head_replaces_the_old_one_alone(kind, labels, material, tmp_path):
    model = save_model(tmp_path / "model", kind, labels=labels)
    more = ["--model_name_or_path", model, "--new_head", "--learning_rate", "1e-12"]
    train(tmp_path / "out", material / "colours", *more)
    before, after = weights(model), weights(tmp_path / "out")
    head = next(name for name in before if name.startswith("classifier") and name.endswith("weight"))
    assert after[head].shape[0] == 3 and not torch.allclose(after[head], before[head][:3], atol=1e-3)
    for name in before:
        if not name.startswith("classifier") and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=0)
    config = AutoModelForImageClassification.from_pretrained(tmp_path / "out").config
    assert list(config.id2label.values()) == CLASSES[:3]


@pytest.mark.parametrize("kind", ["vit", "cp_resnet"])
def test_what_is_saved_sees_images_as_it_was_trained_to(kind, material, tmp_path):
    model = save_model(tmp_path / "model", kind, labels=CLASSES[:3])
    more = ["--crop_pct", "0.5", "--interpolation", "bilinear", *([] if kind == "vit" else ["--image_size", "24"])]
    (row,) = train(tmp_path / "out", material / "colours", "--model_name_or_path", model, "--do_eval", *more)
    again = evaluate(tmp_path / "again", tmp_path / "out", material / "colours")
    for name in ("image_size", "crop_pct", "interpolation", *METRICS):
        assert again[name] == pytest.approx(row[name])
    assert row["interpolation"] == "bilinear" and row["crop_pct"] == 0.5


def losses(output: Path) -> tuple[float, float]:
    """The first loss of training and of evaluation."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return tuple(next(entry[name] for entry in history if name in entry) for name in ("loss", "eval_loss"))


@pytest.mark.parametrize("more", [["--label_smoothing_factor", "0.5"], ["--mixup", "0.8"], ["--cutmix", "1.0"]])
def test_soft_labels_change_the_loss_of_training_alone(more, material, tmp_path):
    model = save_model(tmp_path / "model", labels=CLASSES[:3])
    steps = ["--model_name_or_path", model, "--learning_rate", "1e-12", "--max_steps", "1", "--logging_steps", "1"]
    steps += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    steps += ["--per_device_train_batch_size", "24"]
    found = []
    for name, options_here in (("plain", []), ("soft", more)):
        train(tmp_path / name, material / "colours", *steps, *options_here)
        found.append(losses(tmp_path / name / "checkpoint-1"))
    assert abs(found[0][0] - found[1][0]) > 1e-3 and found[0][1] == pytest.approx(found[1][1], abs=1e-5)
    assert found[0][0] == pytest.approx(by_hand(model, material / "colours" / "train")["loss"], abs=1e-3)
    assert found[0][1] == pytest.approx(by_hand(model, material / "colours" / "val")["loss"], abs=1e-3)


def test_evaluation_in_training_leaves_out_what_cannot_be_read(material, tmp_path):
    data = shutil.copytree(material / "colours", tmp_path / "data")
    (data / "val" / CLASSES[1] / "broken.png").write_bytes(b"broken")
    more = [*NEW, "--eval_strategy", "epoch", "--do_eval", "--save_strategy", "epoch", "--max_steps", "3"]
    (row,) = train(tmp_path / "out", data, *more, "--learning_rate", "1e-12", "--per_device_eval_batch_size", "6")
    state = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    (entry,) = [entry for entry in state["log_history"] if "eval_top1" in entry]
    assert (entry["eval_top1"], entry["eval_top5"]) == (row["top1"], row["top5"])
    assert row["images"] == 12 and row["corrupt"] == 1 and np.isfinite(entry["eval_loss"])


def test_a_training_image_that_cannot_be_read_is_named_and_training_goes_on(material, tmp_path):
    data = shutil.copytree(material / "colours", tmp_path / "data")
    (data / "train" / CLASSES[1] / "broken.png").write_bytes(b"broken")
    (data / "train" / CLASSES[0] / "empty.png").write_bytes(b"")
    more = [*NEW, "--dataloader_num_workers", "2", "--max_steps", "9", "--do_eval"]
    (row,) = train(tmp_path / "out", data, *more)
    lines = (tmp_path / "out" / "corrupt_images.txt").read_text().splitlines()
    assert sorted(Path(line.split(":")[0]).name for line in lines) == ["broken.png", "empty.png"]
    assert row["images"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_the_data_can_be_sent_to_workers_that_are_not_forked(streaming, material, tmp_path, monkeypatch):
    sent = []

    def pickled(self, *args, **kwargs):
        data = pickle.loads(pickle.dumps((self.train_dataset, self.data_collator)))
        sent.append(data[1]([next(iter(data[0]))])["pixel_values"].shape)

    monkeypatch.setattr(Trainer, "train", pickled)
    more = ["--dataset_name", "digits", "--max_train_samples", "4", *(["--streaming"] if streaming else [])]
    imagenet(tmp_path / "out", *more, *TRAIN, *STILL, *NEW, "--image_size", SIDE, "--max_steps", "1")
    assert sent == [(1, 3, SIDE, SIDE)]


@pytest.mark.slow
def test_a_stream_is_trained_on_again_and_again(material, tmp_path):
    more = ["--dataset_name", "digits", "--streaming", "--max_train_samples", "12", "--max_eval_samples", "10"]
    more += ["--do_eval", "--image_size", SIDE, "--per_device_train_batch_size", "4"]
    (row,) = imagenet(tmp_path / "out", *more, *TRAIN, *STILL, *NEW, "--max_steps", "7")
    assert row["images"] == 10
    state = AutoModelForImageClassification.from_pretrained(tmp_path / "out").state_dict()
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_learning_rates_decay_from_the_head_down(kind, material, tmp_path, monkeypatch):
    seen, original = {}, Trainer.create_optimizer

    def recorded(self, *args, **kwargs):
        for group in self.optimizer.param_groups:
            seen.update({id(parameter): group["lr"] for parameter in group["params"]})
        seen.update({name: seen[id(parameter)] for name, parameter in self.model.named_parameters()})
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "create_optimizer", recorded)
    model = save_model(tmp_path / "model", kind, labels=CLASSES[:3])
    more = ["--model_name_or_path", model, "--layer_decay", "0.5", "--learning_rate", "0.08", "--max_steps", "1"]
    train(tmp_path / "out", material / "colours", *more)
    named = {name: rate for name, rate in seen.items() if isinstance(name, str)}
    head = {rate for name, rate in named.items() if name.startswith("classifier")}
    lowest = {rate for name, rate in named.items() if "embed" in name}
    part = {"vit": "layers", "resnet": "stages"}[kind]
    for index, expected in enumerate((0.02, 0.04)):
        assert {rate for name, rate in named.items() if f".{part}.{index}." in name} == {expected}
    assert head == {0.08}
    assert lowest == {0.01}


def test_a_teacher_teaches_in_the_order_of_its_own_labels(material, tmp_path):
    order = [2, 0, 1]
    teacher = save_model(tmp_path / "teacher", labels=CLASSES[:3], initializer_range=0.02)
    learns = ["--model_name_or_path", teacher, "--max_steps", "10", "--learning_rate", "1e-2"]
    train(tmp_path / "taught", material / "colours", *learns)
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "taught", other)
    network = AutoModelForImageClassification.from_pretrained(other)
    with torch.no_grad():
        network.classifier.weight.copy_(network.classifier.weight[order].clone())
        network.classifier.bias.copy_(network.classifier.bias[order].clone())
    network.config.id2label = {index: CLASSES[old] for index, old in enumerate(order)}
    network.config.label2id = {CLASSES[old]: index for index, old in enumerate(order)}
    network.save_pretrained(other)
    for name in ("taught", "other"):
        more = [*NEW, "--teacher", tmp_path / name, "--distillation_logits_weight", "1", "--max_steps", "4"]
        train(tmp_path / f"{name}-student", material / "colours", *more)
    assert_equal_weights(tmp_path / "taught-student", tmp_path / "other-student", 1e-5)
    train(tmp_path / "alone", material / "colours", *NEW, "--max_steps", "4")
    with pytest.raises(AssertionError):
        assert_equal_weights(tmp_path / "taught-student", tmp_path / "alone", 1e-5)


def test_data_without_names_of_labels_trains_a_new_model(material, tmp_path, monkeypatch):
    rows = [
        {"jpg": {"bytes": file.read_bytes(), "path": file.name}, "cls": number % 5}
        for number, file in enumerate(sorted((material / "whole").rglob("*.png")))
    ]
    data = Dataset.from_list(rows, features=Features({"jpg": ImageFeature(), "cls": Value("int64")}))
    monkeypatch.setattr(image_data, "load_by_name", lambda *args, **kwargs: data)
    more = ["--do_train", "--max_steps", "1", "--num_labels", "5", "--dataset_name", "some/images"]
    tiny = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    imagenet(tmp_path / "out", *more, "--model_config", json.dumps(tiny))
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 5


@pytest.mark.parametrize("wrong", [-1, 5])
@pytest.mark.parametrize("last", ["train", "validation"])
def test_a_label_that_is_none_is_found_before_training(wrong, last, material, tmp_path, monkeypatch, capsys):
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in sorted((material / "whole").rglob("*.png"))]
    features = Features({"jpg": ImageFeature(), "cls": Value("int64")})

    def load(name, config_name, split, **options):
        rows = [{"jpg": image, "cls": number % 5} for number, image in enumerate(images)]
        return Dataset.from_list([*rows[:-1], {**rows[-1], "cls": wrong if split == last else 0}], features=features)

    monkeypatch.setattr(image_data, "load_by_name", load)
    more = [*TRAIN, "--do_eval", "--eval_strategy", "steps", "--dataset_name", "some/images", "--num_labels", "5"]
    assert cli(["imagenet", *options(tmp_path / "out", *more, *NEW)]) == 1
    said = capsys.readouterr().err
    assert f"has the label {wrong}, and labels must be whole numbers from 0 to 4; of a new model" in said
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_the_average_of_a_short_run_has_left_its_start(material, tmp_path):
    train(tmp_path / "plain", material / "colours", *NEW, "--max_steps", "6")
    train(tmp_path / "average", material / "colours", *NEW, "--max_steps", "6", "--ema_decay", "0.9999")
    train(tmp_path / "start", material / "colours", *NEW, "--max_steps", "1", "--learning_rate", "0")
    plain, average, start = (weights(tmp_path / name)["classifier.weight"] for name in ("plain", "average", "start"))
    assert 0.6 < ((average - start).norm() / (plain - start).norm()) < 1


def test_a_checkpoint_in_half_precision_is_evaluated_in_single(material, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(material / "cp_resnet")
    shutil.copytree(material / "cp_resnet", tmp_path / "half")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    row = evaluate(tmp_path / "out", tmp_path / "half", material / "whole")
    model.float().save_pretrained(tmp_path / "half")
    assert row["dtype"] == "float32" and of(row) == close(by_hand(tmp_path / "half", material / "whole"))


@pytest.mark.parametrize("more", [[], ["--eval_strategy", "steps", "--eval_steps", "4"]])
def test_a_model_that_has_diverged_has_no_results(more, material, tmp_path, capsys):
    diverges = [*NEW, "--do_eval", "--data_dir", material / "colours", "--max_steps", "4", "--learning_rate", "1e30"]
    assert cli(["imagenet", *options(tmp_path / "out", *TRAIN, *diverges, *more)]) == 1
    assert "its training has diverged" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.json").exists()
