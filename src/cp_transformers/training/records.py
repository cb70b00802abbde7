# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""What a run leaves besides its model: its results, the record that the model's card is made from, the card, and where
it is asked for a push."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from ..checkpoints.hub import check_target, push_checkpoint
from ..checkpoints.model_card import digests, is_made, read_card, read_license, read_record, write_card
from ..checkpoints.reading import CheckpointError, copy_files, fetch, read_model_type
from ..families import family_of
from ..files import write_json
from .arguments import resolve
from .data_files import PACKAGED
from .runs import HELD_OUT, check_free_space, holds_out, results_file


# Of all options, those that the record of a run holds: what a reader of a model's card asks for, and no paths.
RECORDED = """
seed num_train_epochs max_steps learning_rate pool_learning_rate layer_decay weight_decay optim lr_scheduler_type
warmup_steps per_device_train_batch_size gradient_accumulation_steps max_length max_train_samples max_eval_samples
mlm_probability whole_word_mask label_smoothing_factor crop_min_scale flip rand_augment random_erasing mixup cutmix
ema_decay bf16 fp16 metric_for_best_model early_stopping_patience
""".split()


def prepare(training: TrainingArguments, model: PreTrainedModel, source: str | None = None) -> None:
    """What comes before training: a look at the room on the disk, and at whether the model can be pushed; and the
    record of its conversion, if it came from one, is copied to the output folder.

    Args:
        source: the checkpoint that the run begins with.

    Raises:
        OSError: see [`check_free_space`].
        ValueError: a stock model is to be pushed, or to where the token's account has no place.
    """
    check_free_space(training, model)
    if not training.do_train:
        return
    if training.push_to_hub and family_of(model.config) is None:
        raise ValueError("--push_to_hub is for CP models; push another with `hf upload`.")
    if training.push_to_hub and training.process_index == 0:
        check_target(training.hub_model_id or Path(training.output_dir).resolve().name)
    if source is not None and training.process_index == 0:
        folder = fetch(source)[0]
        if read_record(folder, "conversion.json"):
            copy_files(folder, Path(training.output_dir), ["conversion.json"])


def finish(
    training: TrainingArguments,
    arguments: Any,
    results: dict[str, Any],
    evaluations: Sequence[dict[str, Any]],
    source: str | None = None,
    config_name: str | None = None,
    teacher: str | None = None,
) -> None:
    """Writes the results of a run and, where it has trained, the record of it and a CP model's card; and pushes the
    model, where it is to be pushed.

    Args:
        arguments: the task's.
        results: what `results.json` gets.
        evaluations: the figures, each with its `split`, `metric`, `name` and `value`.
        source: the checkpoint that the run began with.
        config_name: the configuration of the data set, if it has several.
        teacher: the checkpoint that the model has learned from.

    Raises:
        CheckpointError: it could not be pushed; everything else is written.
    """
    if training.process_index != 0:
        return
    output = Path(training.output_dir)
    is_cp = training.do_train and family_of(read_model_type(output)) is not None
    if training.do_train:
        values = resolve(arguments, training)
        if not training.load_best_model_at_end:
            values.pop("metric_for_best_model", None)
        record = {
            "model": None if source is None else _describe_model(source),
            "teacher": None if teacher is None else _describe_model(teacher),
            "data": {
                **describe_data(arguments),
                **_held_out(values),
                "config": config_name or values.get("dataset_config_name"),
            },
            "options": {name: values[name] for name in RECORDED if name in values}
            | ({"processes": training.world_size} if training.world_size > 1 else {}),
            "evaluations": list(evaluations),
            "weights_sha256": digests(output) if is_cp else {},
        }
        write_json(output / "training.json", record)
        card = read_card(output) if is_cp else None
        if is_cp and is_made(card):
            license = None if source is None else read_license(fetch(source)[0])
            write_card(output, training.hub_model_id or output.resolve().name, license=license)
    write_json(results_file(training), results)  # last: by it a run is known to be finished
    push(training)


def _held_out(values: dict[str, Any]) -> dict[str, str]:
    """What a run has evaluated on that has held it out of the file that it has trained on."""
    return {"held_out": f"one text in {HELD_OUT} of {Path(values['train_file']).name}"} if holds_out(values) else {}


def push(training: TrainingArguments) -> None:
    """Pushes the model of a run that is finished, where it is to be pushed.

    Raises:
        CheckpointError: it could not be pushed.
    """
    if not (training.do_train and training.push_to_hub and training.process_index == 0):
        return
    output = Path(training.output_dir)
    repo = training.hub_model_id or output.resolve().name
    try:
        pushed = push_checkpoint(output, repo, private=training.hub_private_repo, revision=training.hub_revision)
    except CheckpointError as error:
        hint = f"The run is finished in {output}; push it with `cp-transformers push {output} {repo}`."
        raise CheckpointError(f"{error} {hint}") from error
    print(f"Pushed to {pushed.url}, commit {pushed.commit}.")


def _describe_model(source: str) -> dict[str, Any]:
    if Path(source).is_dir():
        return {"name": Path(source).resolve().name, "on_the_hub": False, "commit": None}
    return {"name": source, "on_the_hub": True, "commit": fetch(source)[1]}


def describe_data(arguments: Any) -> dict[str, Any]:
    """The name of the data that a run has trained on, and whether it is that of a data set on the Hub; of files, not
    where they lie, and where it is another one, the name of the file that it was evaluated on, as `held_out`."""
    held_out = getattr(arguments, "validation_file", None)
    files = getattr(arguments, "data_dir", None) or getattr(arguments, "train_file", None) or held_out
    if files is not None:
        names = [Path(file).resolve().name for file in (files, held_out or files)]
        return {"name": names[0], "on_the_hub": False} | ({"held_out": names[1]} if names[1] != names[0] else {})
    name = arguments.dataset_name or "nyu-mll/glue"
    return {"name": name, "on_the_hub": name not in PACKAGED and not Path(name).exists()}
