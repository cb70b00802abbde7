# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Training of image classifiers with the field's recipe, on `Trainer`."""

import copy
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import IterableDataset
from safetensors.torch import load_file as load_tensors, save_file as save_tensors
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedModel,
    TrainerCallback,
    ViTImageProcessorPil,
    set_seed,
)
from transformers.utils import logging

from ..families import tower_config
from .distillation import DistillationArguments, DistillationTrainer, check_shapes, make_layer_map, match_outputs
from .image_data import (
    IGNORED,
    INTERPOLATIONS,
    Augmentation,
    CorruptImage,
    DrawImage,
    LabelledImages,
    MixingCollator,
    Preprocessing,
    TrainingImages,
    as_pair,
    check_labels,
    load_processor,
    match_labels,
    match_validation,
    model_label,
    normalization,
    resolve_preprocessing,
)
from .image_evaluation import Preprocessed
from .imagenet_arguments import CONFIGS, ImageNetArguments
from .loading import draw_new_head, fixed_image_size, load_config, load_model, new_config
from .metrics import check_finite
from .rows import Stream
from .run_folder import RunFolder
from .trainer import only_logits


logger = logging.get_logger(__name__)

EMA_FILE = "ema.safetensors"


def make_model(
    arguments: ImageNetArguments, data: LabelledImages
) -> tuple[PreTrainedConfig, Any, Callable[[], PreTrainedModel]]:
    """The configuration and image processor of the checkpoint, or of a new model, and what makes it.

    Raises:
        ValueError: the data's labels are not the checkpoint's, and no new head is asked for; or a field of a new
            model's configuration does not exist.
        OSError: the checkpoint cannot be read.
    """
    labels: dict[str, Any] = {}
    if data.names is None and arguments.num_labels is not None:
        labels = {"num_labels": arguments.num_labels}
    elif data.names is not None:
        labels = {
            "id2label": dict(enumerate(data.names)),
            "label2id": {name: index for index, name in enumerate(data.names)},
        }
    if arguments.model_name_or_path:
        name = arguments.model_name_or_path[0]
        config, processor = load_config(name, AutoModelForImageClassification), load_processor(name)
        trained = any("ImageClassification" in each for each in config.architectures or [])
        if arguments.new_head or not trained:
            config = load_config(name, AutoModelForImageClassification, **labels)
        else:
            match_labels(data.names, config, data.where)
            theirs = [str(label) for label in config.id2label.values()]
            numbered = data.names is not None and all(each.isdecimal() for each in data.names)
            named = not all(re.fullmatch(r"(LABEL_)?\d+", each) for each in theirs)
            if numbered and named and len(theirs) != 1000:  # ImageNet's, which may well be in numbered folders
                raise ValueError(
                    f"The classes of {data.where} are numbers, and those of {name} have names "
                    f"({', '.join(theirs[:3])}, ...): train a new head with --new_head, or name the folders so."
                )
        with torch.device("meta"):
            size = fixed_image_size(AutoModelForImageClassification.from_config(config))
        if size is not None and arguments.image_size is not None and as_pair(size) != as_pair(arguments.image_size):
            raise ValueError(f"{name} is for images of {size}; fine-tune it without --image_size.")

        def load() -> PreTrainedModel:
            model = load_model(
                name, AutoModelForImageClassification, config=config, ignore_mismatched_sizes=arguments.new_head
            )
            return draw_new_head(model) if arguments.new_head else model

        return config, processor, load
    if arguments.image_size is not None and hasattr(CONFIGS[arguments.model_type](), "image_size"):
        labels["image_size"] = arguments.image_size
    config = new_config(CONFIGS, arguments, **labels)
    config.architectures = config.architectures or []  # over which the Auto class iterates if it has several models
    rows, columns = as_pair(arguments.image_size or getattr(config, "image_size", 224))
    resizing: dict[str, Any] = {"size": {"height": rows, "width": columns}}
    if arguments.crop_pct is not None:
        edge = round(min(rows, columns) / arguments.crop_pct)
        resizing = {"size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": resizing["size"]}
    processor = ViTImageProcessorPil(**resizing, resample=INTERPOLATIONS[arguments.interpolation or "bicubic"])
    return config, processor, lambda: AutoModelForImageClassification.from_config(config)


def train_model(
    arguments: ImageNetArguments,
    run_folder: RunFolder,
    distillation: DistillationArguments,
    train: LabelledImages,
    validation: LabelledImages | None,
) -> None:
    """Trains the model, in a run that has been started or goes on, and saves it.

    Raises:
        ValueError: the labels of `train` or `validation` are not the model's, or an option or the teacher does not go
            with it.
        OSError: the checkpoint or the teacher cannot be read.
    """
    training = run_folder.training
    config, processor, load = make_model(arguments, train)
    check_labels(train, config.num_labels)
    validation_to_model = None
    if validation is not None:
        check_labels(validation, config.num_labels)
        validation_to_model = match_validation(validation, config, arguments.real_labels is not None)
    own = resolve_preprocessing(processor, arguments.image_size, arguments.crop_pct, arguments.interpolation)
    for name, value in own.options.items():  # what is saved is to see images as the model was trained to
        setattr(processor, name, value)
    teacher = load_teacher(distillation, config, own)
    set_seed(training.seed)
    model = load()
    if arguments.channels_last:
        model = model.to(memory_format=torch.channels_last)
    run_folder.prepare(model)

    augment = Augmentation(
        own.image_size,
        arguments.crop_min_scale,
        arguments.flip,
        arguments.rand_augment,
        arguments.random_erasing,
        *normalization(processor),
        own.interpolation,
    )
    num_labels = config.num_labels
    draw = DrawLabelled(augment, match_labels(train.names, config, train.where), num_labels, train.where)
    report = CorruptImages(run_folder.path / "corrupt_images.txt")
    data: Any
    if isinstance(train.rows, IterableDataset):
        shuffled = train.rows.shuffle(seed=training.seed, buffer_size=1000)
        data = Stream(shuffled, draw, training.seed, CorruptImage, report)
    else:
        data = TrainingImages(train.rows, draw, training.seed, report)
    evaluated = None
    if validation is not None and training.eval_strategy != "no":
        evaluated = _Evaluated(validation, own, validation_to_model, num_labels)
    smoothing, training = training.label_smoothing_factor, copy.copy(training)
    training.label_smoothing_factor = 0.0  # Trainer's own

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return F.cross_entropy(outputs["logits"].float(), labels, label_smoothing=smoothing if model.training else 0.0)

    trainer = AveragingTrainer(
        model,
        training,
        data_collator=MixingCollator(num_labels, arguments.mixup, arguments.cutmix),
        train_dataset=data,
        eval_dataset=evaluated,
        processing_class=processor,
        compute_loss_func=loss,
        preprocess_logits_for_metrics=only_logits,
        compute_metrics=top_metrics,
        pool_learning_rate=arguments.pool_learning_rate,
        layer_decay=arguments.layer_decay,
        ema_decay=arguments.ema_decay,
        **teacher,
    )
    trainer.train_and_save()


@dataclass
class DrawLabelled(DrawImage):
    """Draws an image as [`DrawImage`] does, with the model's label, see [`model_label`], and the seed."""

    to_model: Sequence[int] | None
    num_labels: int
    where: str

    def __call__(self, row: dict[str, Any], seed: int) -> dict[str, Any]:
        label = model_label(row["label"], self.to_model, self.num_labels, self.where)
        return {**super().__call__(row, seed), "labels": label, "seed": seed}


class CorruptImages:
    """Names each image that cannot be read, once, in a file; from any worker or process."""

    def __init__(self, path: Path):
        self.path, self.seen = path, set()  # type: ignore[var-annotated]

    def __call__(self, message: str) -> None:
        if message in self.seen:
            return
        self.seen.add(message)
        line = f"{message}\n".encode()
        if self.path.is_file() and line in self.path.read_bytes().splitlines(keepends=True):
            return
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, line)  # appended at once, whoever else writes
        finally:
            os.close(file)


class _Evaluated(torch.utils.data.Dataset):
    """For Trainer's evaluations: an image that cannot be read has the label that is left out."""

    def __init__(self, data: LabelledImages, preprocessing: Preprocessing, to_model: Any, num_labels: int):
        self.data, self.to_model, self.num_labels = data, to_model, num_labels
        self.images, self.preprocessing = Preprocessed(data.rows, preprocessing), preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self.images[index]
        if example["pixel_values"] is None:
            return {"pixel_values": torch.zeros(3, *self.preprocessing.image_size), "labels": IGNORED}
        label = model_label(example["label"], self.to_model, self.num_labels, self.data.where)
        return {"pixel_values": example["pixel_values"], "labels": label}


def top_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Top-1 and top-5 accuracy."""
    logits, labels = prediction.predictions, np.asarray(prediction.label_ids)
    check_finite(logits)
    best = np.argsort(-logits, axis=-1, kind="stable")[:, :5]
    right = (best == labels[:, None])[labels != IGNORED]
    return {"top1": float(right[:, 0].mean()), "top5": float(right.any(axis=1).mean())}


class EmaCallback(TrainerCallback):
    """Keeps an exponential moving average of the weights and of the batch statistics beside the model, and, with
    [`AveragingTrainer`], in each checkpoint; the model has the average in the end.

    Args:
        decay: of the average, a step; less in the first n, (1 + n) / (10 + n), or a short run would end with the
            weights of its start.
        checkpoint: folder of a checkpoint to go on from.
    """

    def __init__(self, decay: float, checkpoint: str | None = None):
        self.decay, self.checkpoint = decay, checkpoint
        self.average: AveragedModel | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        self.average = AveragedModel(model, multi_avg_fn=self._step, use_buffers=True)
        if self.checkpoint is not None:
            self.average.load_state_dict(load_tensors(str(Path(self.checkpoint) / EMA_FILE)))

    def _step(self, averaged: Any, current: Any, number: torch.Tensor | int) -> None:
        steps = int(number)
        get_ema_multi_avg_fn(min(self.decay, (1 + steps) / (10 + steps)))(averaged, current, number)

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        self.average.update_parameters(model)  # type: ignore[union-attr]

    def on_train_end(self, args, state, control, model=None, **kwargs) -> None:
        model.load_state_dict(self.average.module.state_dict())  # type: ignore[union-attr]

    def save(self, checkpoint: Path) -> None:
        tensors = {name: value.contiguous() for name, value in self.average.state_dict().items()}  # type: ignore
        save_tensors(tensors, checkpoint / EMA_FILE)


class AveragingTrainer(DistillationTrainer):
    """A Trainer that averages the weights, see [`EmaCallback`]. Its checkpoints have the average beside the weights,
    before they are whole and an earlier one is deleted.

    Args:
        ema_decay: of the average; None: there is none.

    Raises:
        ValueError: there is to be an average of weights that FSDP splits.
    """

    def __init__(self, *args: Any, ema_decay: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.ema: EmaCallback | None = None
        if ema_decay is not None:
            if self.is_fsdp_enabled:
                raise ValueError("The average of --ema_decay is not kept of weights that FSDP splits: leave it out.")
            self.ema = EmaCallback(ema_decay, self.args.resume_from_checkpoint)
            self.add_callback(self.ema)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None and self.ema is not None and self.args.should_save:
            self.ema.save(Path(output_dir))


def load_teacher(
    distillation: DistillationArguments, config: PreTrainedConfig, preprocessing: Preprocessing
) -> dict[str, Any]:
    """The arguments that [`DistillationTrainer`] takes besides a Trainer's.

    Raises:
        ValueError: the teacher has other labels, no trained head, another image size or normalisation, or hidden
            states of another shape.
        OSError: it cannot be read.
    """
    name = distillation.teacher
    if name is None:
        return {}
    teacher_config = load_config(name, AutoModelForImageClassification)
    if distillation.distillation_hidden_weight:
        make_layer_map(config, teacher_config, distillation.layer_map)
    towers = [tower_config(each) for each in (config, teacher_config)]
    sizes = [getattr(each, "image_size", None) for each in towers]
    if None not in sizes and as_pair(sizes[0]) != as_pair(sizes[1]):
        raise ValueError(f"The teacher {name} is for images of {sizes[1]}, the model for images of {sizes[0]}.")
    channels = [getattr(each, "num_channels", 3) for each in towers]
    if channels[0] != channels[1]:
        raise ValueError(f"The teacher {name} is for images of {channels[1]} channels, the model for {channels[0]}.")
    theirs = load_processor(name)
    if _colours(theirs) != _colours(preprocessing.processor):
        raise ValueError(f"The teacher {name} is for images that are normalised otherwise than the model's.")
    size, seen = preprocessing.image_size, resolve_preprocessing(theirs).image_size
    if size != seen:
        logger.warning(f"The teacher {name} is for images of {seen}, and is given those of the model, of {size}.")
    if distillation.distillation_hidden_weight:
        check_shapes(config, teacher_config, name, distillation.layer_map, size)
    if not distillation.distillation_logits_weight:
        return {"teacher": load_model(name, AutoModel), "distillation": distillation}
    if not any("ImageClassification" in each for each in teacher_config.architectures or []):
        raise ValueError(f"The teacher {name} has no trained classifier: fine-tune it first.")
    labels = match_outputs(config, teacher_config, name)
    teacher = load_model(name, AutoModelForImageClassification)
    return {"teacher": teacher, "distillation": distillation, "teacher_labels": labels}


def _colours(processor: Any) -> Any:
    """The normalisation of an image processor's colours, and whether it reverses their order."""
    return normalization(processor), bool(getattr(processor, "do_flip_channel_order", False))
