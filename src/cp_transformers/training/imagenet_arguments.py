# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""The options of `cp-transformers imagenet`."""

from dataclasses import dataclass, field

from ..families import configs_with
from .arguments import as_mapping, check_positive
from .image_data import INTERPOLATIONS


CONFIGS = configs_with("ForImageClassification")


@dataclass
class ImageNetArguments:
    """The options of the command besides transformers' TrainingArguments."""

    model_name_or_path: list[str] = field(
        default_factory=list,
        metadata={"help": "checkpoints to evaluate, or one to fine-tune; none: a new model is trained"},
    )
    model_type: str = field(
        default=next(iter(CONFIGS)), metadata={"help": f"of a new model: one of {', '.join(CONFIGS)}"}
    )
    model_config: str = field(
        default="{}",
        metadata={"help": "of a new model: fields of its configuration, e.g. '{\"num_hidden_layers\": 2}'"},
    )
    pool_config: str = field(
        default="{}", metadata={"help": "the same, for the pool_ fields, which a stock model leaves out"}
    )
    new_head: bool = field(default=False, metadata={"help": "draw a new head, though the checkpoint has one"})

    dataset_name: str | None = field(
        default="ILSVRC/imagenet-1k",
        metadata={"help": "images on the Hub, such as also timm/imagenet-1k-wds, or digits, those of a package"},
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "its configuration"})
    data_dir: str | None = field(
        default=None,
        metadata={"help": "in its place folders train/ and validation/ (or val/), with one folder a class"},
    )
    streaming: bool = field(default=False, metadata={"help": "read the images while they are used"})
    num_labels: int | None = field(
        default=None, metadata={"help": "of a new model or head, where the data has no names for them"}
    )
    train_split: str = field(default="train", metadata={"help": "the split of dataset_name to train on"})
    validation_split: str = field(default="validation", metadata={"help": "the split of it to evaluate on"})
    image_column: str | None = field(default=None, metadata={"help": "default: image, jpg, ..., whichever is there"})
    label_column: str | None = field(default=None, metadata={"help": "default: label, cls, ..., whichever is there"})
    max_train_samples: int | None = field(default=None, metadata={"help": "train on so many of them alone"})
    max_eval_samples: int | None = field(default=None, metadata={"help": "evaluate on so many of them alone"})
    real_labels: str | None = field(
        default=None, metadata={"help": "JSON file of ReaL labels, to evaluate against them as well"}
    )

    image_size: int | None = field(default=None, metadata={"help": "side of the square that the model sees"})
    crop_pct: float | None = field(
        default=None,
        metadata={"help": "part of the side that is seen in evaluation"},
    )
    interpolation: str | None = field(default=None, metadata={"help": f"one of {', '.join(INTERPOLATIONS)}"})
    channels_last: bool = field(default=False, metadata={"help": "keep images and weights in this memory format"})

    crop_min_scale: float = field(default=0.08, metadata={"help": "smallest area of a random crop; 1: no crop"})
    flip: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    rand_augment: int = field(default=9, metadata={"help": "magnitude of RandAugment; 0: off"})
    random_erasing: float = field(default=0.25, metadata={"help": "probability of erasing a rectangle"})
    mixup: float = field(default=0.8, metadata={"help": "alpha of Mixup; 0: off"})
    cutmix: float = field(default=1.0, metadata={"help": "alpha of CutMix; 0: off"})
    layer_decay: float = field(
        default=1.0, metadata={"help": "factor of the learning rates from a layer to the one below"}
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "average the weights with this decay (a lower one in the first steps), and save and evaluate that "
            "in the end"
        },
    )
    pool_learning_rate: float | None = field(
        default=None, metadata={"help": "of the pooling modules; default: that of the rest"}
    )

    def __post_init__(self) -> None:
        if self.model_type not in CONFIGS:
            raise ValueError(f"model_type must be one of {', '.join(CONFIGS)}, not {self.model_type}.")
        for name in ("model_config", "pool_config"):
            as_mapping(name, getattr(self, name))
        if self.data_dir is not None and (self.train_split, self.validation_split) != ("train", "validation"):
            raise ValueError(
                "train_split and validation_split are for --dataset_name; --data_dir has its own folders."
            )
        if self.data_dir is not None:
            self.dataset_name = self.dataset_config_name = None
        elif not self.dataset_name:
            raise ValueError("Give the images by --dataset_name or by --data_dir.")
        if self.streaming and self.data_dir:
            raise ValueError("streaming is for --dataset_name: the images in --data_dir are read when they are used.")
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, not {self.interpolation}.")
        for name in ("flip", "random_erasing", "crop_min_scale", "crop_pct", "layer_decay", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {value}.")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}.")
        if not 0 <= self.rand_augment <= 30:  # torchvision's magnitudes
            raise ValueError(f"rand_augment must be from 0 to 30, not {self.rand_augment}.")
        check_positive(
            self, "num_labels", "max_train_samples", "max_eval_samples", "image_size", "crop_pct", "pool_learning_rate"
        )
        check_positive(self, "layer_decay", "ema_decay", "crop_min_scale")
