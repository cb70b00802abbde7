# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The record of a training, from which the model's card is made, and the card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.model_card import digests, is_made, read_card, read_license, write_card
from ..checkpoints.reading import fetch, read_model_type
from ..families import family_of
from ..files import write_json
from .data_files import HELD_OUT, PACKAGED, holds_out


# The options that a record holds: what a reader of a model's card asks for, and no paths.
RECORDED = """
seed num_train_epochs max_steps learning_rate pool_learning_rate layer_decay weight_decay optim lr_scheduler_type
warmup_steps per_device_train_batch_size gradient_accumulation_steps max_length max_train_samples max_eval_samples
mlm_probability whole_word_mask label_smoothing_factor crop_min_scale flip rand_augment random_erasing mixup cutmix
ema_decay bf16 fp16 metric_for_best_model early_stopping_patience
""".split()


def write_record(
    folder: Path, options: Mapping[str, Any], evaluations: Sequence[Mapping[str, Any]], processes: int = 1
) -> None:
    """Writes `training.json` beside a trained model, and a CP model's card, unless somebody has changed the card.

    Args:
        folder: the model's.
        options: those of the run, see [`resolve`][cp_transformers.training.arguments.resolve].
        evaluations: the figures, each with its `split`, `metric`, `name` and `value`.
        processes: how many have shared the training.
    """
    source, teacher = source_of(options), options.get("teacher")
    recorded = {name: options[name] for name in RECORDED if name in options}
    if not options.get("load_best_model_at_end"):
        recorded.pop("metric_for_best_model", None)
    is_cp = family_of(read_model_type(folder)) is not None
    record = {
        "model": None if source is None else _describe_model(source),
        "teacher": None if teacher is None else _describe_model(teacher),
        "without_labels": "distillation_class_token_weight" in options,  # which `distill` alone has
        "data": {**describe_data(options), "config": options.get("task") or options.get("dataset_config_name")},
        "options": {**recorded, **({"processes": processes} if processes > 1 else {})},
        "evaluations": list(evaluations),
        "weights_sha256": digests(folder) if is_cp else {},
    }
    write_json(folder / "training.json", record)
    if is_cp and is_made(read_card(folder)):
        license = None if source is None else read_license(fetch(source)[0])
        write_card(folder, options.get("hub_model_id") or folder.resolve().name, license=license)


def source_of(options: Mapping[str, Any]) -> str | None:
    """The checkpoint that a run begins with, the first where there are several; None for a new model."""
    names = options.get("model_name_or_path")
    return names[0] if isinstance(names, list) else names


def _describe_model(source: str) -> dict[str, Any]:
    """The name of a checkpoint, without the path of a folder, and its commit on the Hub."""
    if Path(source).is_dir():
        return {"name": Path(source).resolve().name, "on_the_hub": False, "commit": None}
    return {"name": source, "on_the_hub": True, "commit": fetch(source)[1]}


def describe_data(options: Mapping[str, Any]) -> dict[str, Any]:
    """The name of the data that a run trains on, without the path of a file, and whether it is that of a data set on
    the Hub. Where it evaluates on other data, `held_out` says which: another file, or a part of the same."""
    file = options.get("validation_file")
    files = options.get("data_dir") or options.get("train_file") or file
    if files is None:
        name = options.get("dataset_name") or "nyu-mll/glue"
        return {"name": name, "on_the_hub": name not in PACKAGED and not Path(name).exists()}
    names = [Path(each).resolve().name for each in (files, file or files)]
    if holds_out(options):
        names[1] = f"one text in {HELD_OUT} of {Path(options['train_file']).name}"
    return {"name": names[0], "on_the_hub": False} | ({"held_out": names[1]} if names[1] != names[0] else {})
