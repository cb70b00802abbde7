# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Evaluation, fine-tuning and training from scratch on ImageNet (Russakovsky et al., IJCV 2015) or any other labelled
images, for CP and stock models alike."""

from collections.abc import Sequence
from typing import Any

from datasets import IterableDataset
from transformers import AutoModelForImageClassification, TrainingArguments

from ..files import write_csv
from .arguments import ArgumentParser
from .distillation import DistillationArguments
from .image_data import (
    LabelledImages,
    check_labels,
    load_folder,
    load_images,
    load_processor,
    load_real_labels,
    match_validation,
    resolve_preprocessing,
    validation_number,
)
from .image_evaluation import evaluate_checkpoint
from .image_training import EMA_FILE, train_model
from .imagenet_arguments import ImageNetArguments
from .loading import load_config
from .run_folder import RunFolder
from .trainer import check_metrics


# The columns of results.csv.
COLUMNS = """
model top1 top5 real_top1 loss images corrupt parameters image_size crop_pct interpolation dtype batch_size
images_per_second
""".split()


def run(
    arguments: ImageNetArguments, training: TrainingArguments, distillation: DistillationArguments | None = None
) -> dict[str, Any]:
    """Trains and evaluates as `training.do_train` and `do_eval` say.

    Writes to `training.output_dir`: the resolved arguments, the trained model with its image processor, and
    `results.json` and `results.csv` with a row for each checkpoint. Images that cannot be read are counted and named
    there; in training the next one takes the place of each, and `corrupt_images.txt` names them.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: an argument, the data or a checkpoint is not what is needed.
        FileExistsError: `output_dir` has the results of another run.
        OSError: something cannot be read or written.
        ImportError: a package that is needed is not installed.
    """
    distillation = distillation or DistillationArguments()
    run_folder = RunFolder(training, arguments, distillation)
    _check(arguments, training, distillation)
    run_folder.check()
    if (found := run_folder.find_results()) is not None:
        return found
    real_labels = None if arguments.real_labels is None else load_real_labels(arguments.real_labels)
    needed = {"train": training.do_train, "validation": training.do_eval or training.eval_strategy != "no"}
    with training.main_process_first():  # the others then find what it has cached
        data = {split: _load(arguments, split) for split, does in needed.items() if does}

    def to_model(name: str) -> list[int] | None:
        config = load_config(name, AutoModelForImageClassification)
        check_labels(data["validation"], config.num_labels)
        return match_validation(data["validation"], config, real_labels is not None)

    checkpoints = {} if training.do_train else {name: to_model(name) for name in arguments.model_name_or_path}
    for name in checkpoints:
        resolve_preprocessing(load_processor(name), arguments.image_size, arguments.crop_pct, arguments.interpolation)

    training = run_folder.go_on(*([EMA_FILE] if arguments.ema_decay else []))
    training.remove_unused_columns = False
    if training.do_train:
        train_model(arguments, run_folder, distillation, data["train"], data.get("validation"))
        if training.do_eval:
            checkpoints[training.output_dir] = to_model(training.output_dir)
    rows, progress = [], run_folder.path / "progress"
    for number, (name, labels) in enumerate(checkpoints.items()):
        file = progress / f"{number}-{training.process_index}-of-{training.world_size}.json"
        rows.append(evaluate_checkpoint(name, arguments, training, data["validation"], labels, real_labels, file))
    if training.process_index == 0:
        write_csv(run_folder.path / "results.csv", COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    results = run_folder.finish({"results": rows}, _figures(rows, arguments))
    if training.process_index == 0 and progress.is_dir():
        for file in progress.glob("*.json"):
            file.unlink()
        progress.rmdir()
    return results


def _figures(rows: Sequence[dict[str, Any]], arguments: ImageNetArguments) -> list[dict[str, Any]]:
    """The figures for the record of a run that has trained, and so has evaluated one model at most."""
    kinds = {"top1": ("accuracy", "accuracy"), "top5": ("accuracy", "top-5 accuracy")}
    kinds.update(real_top1=("accuracy", "ReaL accuracy"), loss=("loss", "loss"))
    return [
        {"split": arguments.validation_split, "metric": metric, "name": name, "value": row[column]}
        for row in rows
        for column, (metric, name) in kinds.items()
        if row[column] is not None
    ]


def _check(arguments: ImageNetArguments, training: TrainingArguments, distillation: DistillationArguments) -> None:
    """Refuses what can be known to be wrong before anything is loaded.

    Raises:
        ValueError: see [`run`].
    """
    names = arguments.model_name_or_path
    if not (training.do_train or training.do_eval):
        raise ValueError("There is nothing to do: give --do_train or --do_eval.")
    if training.do_train and len(names) > 1:
        raise ValueError("One checkpoint is fine-tuned at a time: give one --model_name_or_path, or none.")
    if not training.do_train and not names:
        raise ValueError("There is nothing to evaluate: give --model_name_or_path.")
    if len(set(names)) < len(names):
        raise ValueError("A checkpoint is named twice.")
    if training.do_train and arguments.streaming and training.max_steps <= 0:
        raise ValueError("Images that are streamed have no known number: say how long to train with --max_steps.")
    if training.do_eval and (training.fp16_full_eval or (training.fp16 and not training.do_train)):
        raise ValueError("Evaluation is in float32 or bfloat16: give --bf16_full_eval or --bf16 in place of fp16.")
    if training.do_predict:
        raise ValueError("Images are evaluated, with labels: give --do_eval in place of --do_predict.")
    if training.eval_strategy != "no" and arguments.streaming:
        raise ValueError("Streamed images are evaluated at the end alone: leave out --eval_strategy.")
    if training.do_train and arguments.ema_decay is not None and training.load_best_model_at_end:
        raise ValueError("The average of --ema_decay is of the last weights: leave out --load_best_model_at_end.")
    if distillation.teacher is not None and not training.do_train:
        raise ValueError("A teacher teaches in training: give --do_train, or leave out --teacher.")
    if training.do_train and training.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
        raise ValueError(
            "Images have no lengths to sort them by: leave out --train_sampling_strategy "
            f"{training.train_sampling_strategy}."
        )
    check_metrics(training, ("loss", "top1", "top5"))
    if distillation.teacher is not None:
        if not (distillation.distillation_logits_weight or distillation.distillation_hidden_weight):
            raise ValueError("Both weights of distillation are 0, so the teacher would teach nothing.")


def _load(arguments: ImageNetArguments, split: str) -> LabelledImages:
    """A split, or so much of it as is asked for.

    Raises:
        OSError, ValueError: see [`load_folder`] and [`load_images`]; or there is one class alone to train on, or the
            images have no names to find their ReaL labels by.
    """
    if arguments.data_dir is not None:
        data = load_folder(arguments.data_dir, split)
    else:
        data = load_images(
            str(arguments.dataset_name),
            arguments.dataset_config_name,
            getattr(arguments, f"{split}_split"),
            arguments.streaming,
            arguments.image_column,
            arguments.label_column,
        )
    if split == "train" and data.names is not None and len(data.names) < 2:
        raise ValueError(f"{data.where} has only one class, {', '.join(data.names)}; training needs two or more.")
    if split == "validation" and arguments.real_labels is not None:
        validation_number(next(iter(data.rows))["image"].get("path"), data.where)
    limit = arguments.max_train_samples if split == "train" else arguments.max_eval_samples
    if limit is not None and isinstance(data.rows, IterableDataset):
        data.rows = data.rows.take(limit)
    elif limit is not None:
        # The images of a folder lie class by class: these are of all classes, and always the same.
        data.rows = data.rows.shuffle(seed=0).select(range(min(limit, len(data.rows))))
    return data


def report(results: dict[str, Any]) -> str:
    """The results as a table."""
    header = f"{'top-1':>7}{'top-5':>8}{'ReaL':>8}{'loss':>9}{'images':>9}{'corrupt':>9}{'img/s':>9}  model"
    lines = [header, "-" * len(header)]
    for row in results["results"]:
        real = f"{100 * row['real_top1']:.2f}" if row["real_top1"] is not None else "-"
        rate = f"{row['images_per_second']:.1f}" if row["images_per_second"] is not None else "-"
        lines.append(
            f"{100 * row['top1']:>7.2f}{100 * row['top5']:>8.2f}{real:>8}{row['loss']:>9.4f}{row['images']:>9}"
            f"{row['corrupt']:>9}{rate:>9}  {row['model']}"
        )
        lines += [f"  not read: {image}" for image in row["corrupt_images"][:10]]
        if len(row["corrupt_images"]) > 10:
            lines.append(f"  and {len(row['corrupt_images']) - 10} more, see results.json")
    return "\n".join(lines)


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    """The command `cp-transformers imagenet`, and scripts/run_imagenet.py; returns what [`run`] returns."""
    parser = ArgumentParser(
        [ImageNetArguments, DistillationArguments, TrainingArguments],
        prog="cp-transformers imagenet",
        description="Evaluate, fine-tune and train CP and stock models on ImageNet or other labelled images.",
    )
    arguments, distillation, training = parser.parse(args)
    results = run(arguments, training, distillation)
    if training.process_index == 0:
        if results["results"]:
            print("\n" + report(results))
        print(f"\nWritten to {training.output_dir}.")
    return results
