# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The refusals of `cp-transformers imagenet`."""

import json
import shutil
from pathlib import Path

import pytest
from imagenet_cases import (
    CLASSES,
    NEW,
    STILL,
    TRAIN,
    VIT,
    imagenet,
    make_material,
    options,
    read_images,
    rename,
    save_model,
)
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    ViTImageProcessorPil,
)

from cp_transformers.cli import main as cli


@pytest.fixture(scope="module")
def material(tmp_path_factory) -> Path:
    """See [`imagenet_cases.make_material`]."""
    return make_material(tmp_path_factory.mktemp("images"))


def refusal(capsys, output: Path, *more) -> str:
    """The one line in which a command is refused, before anything is trained or measured."""
    capsys.readouterr()
    assert cli(["imagenet", *options(output, *more)]) == 1
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and not (output / "results.json").exists()
    lines = printed.err[printed.err.index("cp-transformers: ") :].strip().splitlines()
    assert len(lines) == 1, lines
    assert not list(output.glob("*.safetensors"))
    return lines[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--do_eval", "--model_name_or_path", "vit", "--dataset_name", ""], "--dataset_name or by --data_dir"),
        (["--do_eval", "--model_name_or_path", "vit", "--data_dir", "nowhere"], "There is no folder"),
        (["--do_eval", "--model_name_or_path", "vit", "--data_dir", "vit"], "no images in folders of classes"),
        (["--do_train", "--data_dir", "whole"], "has no folder train"),
        (["--do_train", "--data_dir", "nowhere"], "There is no folder"),
        (["--do_eval", "--data_dir", "whole"], "nothing to evaluate"),
        (["--do_train", "--data_dir", "colours", "--metric_for_best_model", "accuracy"], "there are loss, top1, top5"),
        (["--data_dir", "whole"], "There is nothing to do: give --do_train"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "vit", "cp_resnet"], "one --model_name"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "vit"], "named twice"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "no/where"], "no/where is no folder"),
        (["--do_train", "--dataset_name", "digits", "--streaming"], "--max_steps"),
        (["--do_eval", "--data_dir", "whole", "--streaming", "--model_name_or_path", "vit"], "streaming is for"),
        (["--do_train", "--data_dir", "colours", "--model_config", '{"hiden_size": 3}'], "no field hiden_size"),
        (["--do_train", "--data_dir", "colours", "--model_config", "[1]"], "must be a mapping"),
        (["--do_train", "--data_dir", "colours", "--model_type", "bert"], "model_type must be one of cp_vit"),
        (["--do_eval", "--data_dir", "whole", "--interpolation", "box"], "interpolation must be one of nearest"),
        (["--do_eval", "--data_dir", "whole", "--crop_pct", "1.5"], "crop_pct must be from 0 to 1"),
        (["--do_eval", "--data_dir", "whole", "--crop_pct", "0"], "crop_pct must be positive"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "--teacher", "vit"], "--do_train"),
        (
            ["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "--real_labels", "real.json"],
            "real.json",
        ),
        (
            ["--do_eval", "--data_dir", "colours", "--model_name_or_path", "other"],
            "is not one of the 3 labels of",
        ),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "other"], "--new_head"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "bare"], "no image processor"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "bare"], "no image processor"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "bert"], "bert"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "bert"], "bert"),
        (["--do_eval", "--dataset_name", "some/images", "--model_name_or_path", "vit"], "--data_dir"),
        (["--do_train", "--data_dir", "colours", "--teacher", "large"], "images of 32"),
        (["--do_train", "--data_dir", "colours", "--teacher", "vit"], "other labels"),
        (["--do_train", "--data_dir", "colours", "--model_name_or_path", "large", "--image_size", "16"], "of 32"),
        (
            ["--do_train", "--do_eval", "--data_dir", "colours", "--real_labels", "numbers.json"],
            "ReaL labels are found by the images' file names",
        ),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "--fp16", "true"], "in place of fp16"),
        (["--do_train", "--data_dir", "one"], "has only one class, ash; training needs two or more"),
        (["--do_train", "--data_dir", "gone", "--do_eval"], "has no folder validation"),
        (["--do_train", "--data_dir", "colours", "--rand_augment", "31"], "rand_augment must be from 0 to 30, not 31"),
        (["--do_train", "--data_dir", "colours", "--rand_augment", "-1"], "rand_augment must be from 0 to 30, not -1"),
        (["--do_train", "--data_dir", "colours", "--train_sampling_strategy", "group_by_length"], "no lengths"),
        (["--do_train", "--data_dir", "colours", "--train_sampling_strategy", "batch_rebalance"], "no lengths"),
        (["--do_train", "--data_dir", "colours", "--validation_split", "test"], "are for --dataset_name"),
        (["--do_eval", "--data_dir", "whole", "--model_name_or_path", "vit", "--do_predict"], "in place of --do_pred"),
        (["--do_train", "--data_dir", "colours", "--label_names", "label"], "leave out --label_names"),
        (["--do_train", "--data_dir", "numbered", "--model_name_or_path", "vit"], "are numbers, and those of"),
    ],
    ids=lambda value: None if isinstance(value, list) else value,
)
def test_what_makes_no_sense_is_refused_in_a_sentence(more, message, refused_material, tmp_path, capsys):
    names = {path.name for path in refused_material.iterdir()} | {"nowhere"}
    given = [refused_material / each if each in names and at else each for at, each in enumerate(more)]
    if "--do_train" in more and "--model_name_or_path" not in more and "--model_config" not in more:
        given += NEW
    assert message in refusal(capsys, tmp_path / "out", *STILL, *given)


@pytest.fixture(scope="module")
def refused_material(material) -> Path:
    """`material` with what cannot be used."""
    (material / "real.json").write_text('[[1], "2"]')
    (material / "numbers.json").write_text("[[1], [2]]")
    shutil.copytree(material / "colours" / "train" / CLASSES[0], material / "one" / "train" / CLASSES[0])
    save_model(material / "other", labels=["x", "y", "z"])
    save_model(material / "large", labels=CLASSES[:3], image_size=32)
    shutil.copytree(material / "vit", material / "bare")
    (material / "bare" / "preprocessor_config.json").unlink()
    shutil.copytree(material / "colours" / "train", material / "gone" / "train")
    rename(material / "whole", material / "numbered" / "train", list(map(str, range(len(CLASSES)))))
    labels = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: i for i, name in enumerate(CLASSES)}}
    sizes = {name: VIT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    BertForSequenceClassification(BertConfig(**sizes, vocab_size=9, **labels)).save_pretrained(material / "bert")
    ViTImageProcessorPil().save_pretrained(material / "bert")
    return material


def test_labels_are_matched_before_an_image_is_read(material, tmp_path, capsys, monkeypatch):
    names = read_images(monkeypatch)
    model = save_model(tmp_path / "model", labels=CLASSES[:6])
    more = ["--do_eval", "--model_name_or_path", material / "vit", model, "--data_dir", material / "whole"]
    assert "a class 'gum_tree'" in refusal(capsys, tmp_path / "out", *more)
    data = rename(material / "whole", tmp_path / "data", ["0", "1", "2", "3", "10", "5", "6"])
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", data]
    assert "a class 10, but the model tells only 7 apart" in refusal(capsys, tmp_path / "out", *more)
    assert not names and not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["new", "fine-tuned"])
def test_labels_of_the_evaluation_are_matched_before_training(source, material, tmp_path, capsys):
    data = shutil.copytree(material / "colours", tmp_path / "data")
    shutil.copytree(data / "val" / CLASSES[0], data / "val" / "fish")
    model = NEW
    if source == "fine-tuned":
        model = ["--model_name_or_path", save_model(tmp_path / "model", labels=CLASSES[:3])]
    more = ["--data_dir", data, *TRAIN, *STILL, *model, "--do_eval"]
    assert "a class 'fish', which is not one of the 3 labels" in refusal(capsys, tmp_path / "out", *more)


def test_a_folder_in_which_no_image_can_be_read_is_refused(material, tmp_path, capsys):
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "1.png").write_bytes(b"")
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", tmp_path / "data"]
    assert str(tmp_path / "data") in refusal(capsys, tmp_path / "out", *more)


def test_an_earlier_run_s_results_are_not_overwritten(material, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "results.json").write_text("{}")
    more = ["--do_eval", "--model_name_or_path", material / "vit", "--data_dir", material / "whole"]
    assert cli(["imagenet", *options(output, *more)]) == 1
    assert "earlier run" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in output.iterdir()} == {"results.json": "{}"}


def test_a_teacher_of_images_that_are_normalised_otherwise_is_refused(material, tmp_path, capsys):
    shutil.copytree(material / "vit", tmp_path / "teacher")
    file = tmp_path / "teacher" / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    more = ["--do_train", "--data_dir", material / "colours", "--model_name_or_path", material / "vit"]
    assert "normalised otherwise" in refusal(capsys, tmp_path / "out", *more, "--teacher", tmp_path / "teacher")


def test_a_teacher_of_other_patches_or_tokens_is_refused_before_training(material, tmp_path, capsys):
    save_model(tmp_path / "patches", patch_size=4)
    names = {"id2label": dict(enumerate(CLASSES)), "label2id": {name: index for index, name in enumerate(CLASSES)}}
    DeiTForImageClassification(DeiTConfig(**VIT, **names)).save_pretrained(tmp_path / "prefix")
    shutil.copyfile(material / "vit" / "preprocessor_config.json", tmp_path / "prefix" / "preprocessor_config.json")
    more = ["--do_train", "--data_dir", material / "colours", "--model_name_or_path", material / "vit"]
    for name, tokens in (("patches", 17), ("prefix", 6)):
        message = refusal(capsys, tmp_path / "out", *more, "--teacher", tmp_path / name)
        assert f"0 has the shape (5, 16), and 0 of the teacher {tmp_path / name} has ({tokens}, 16)" in message
    more += ["--distillation_hidden_weight", "0", "--teacher", tmp_path / "prefix", *TRAIN, *STILL]
    imagenet(tmp_path / "out", *more)  # which teaches answers all the same


def test_a_teacher_of_other_channels_is_refused(material, tmp_path, capsys):
    save_model(tmp_path / "grey", "resnet", num_channels=1)
    more = ["--do_train", "--data_dir", material / "colours", "--model_name_or_path", material / "cp_resnet"]
    message = refusal(capsys, tmp_path / "out", *more, "--teacher", tmp_path / "grey")
    assert "is for images of 1 channels, the model for 3" in message


def test_a_teacher_of_images_of_another_size_is_given_the_model_s_and_that_is_said(material, tmp_path, caplog):
    save_model(tmp_path / "teacher", "resnet")
    more = ["--data_dir", material / "colours", "--model_name_or_path", material / "cp_resnet", "--image_size", "24"]
    with caplog.at_level("WARNING"):
        imagenet(tmp_path / "out", *TRAIN, *STILL, *more, "--teacher", tmp_path / "teacher")
    assert "is for images of (16, 16), and is given those of the model, of (24, 24)" in caplog.text
