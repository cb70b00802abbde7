# Copyright 2026 The cp_transformers authors.
# Licensed under the Apache License, Version 2.0. See the LICENSE file at the root of this repository.
"""Labelled images: where they come from, which of a model's labels theirs are, and how they become pixel values, in
evaluation as the checkpoint's image processor says and in training with the field's augmentations."""

import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image, IterableDataset
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.utils import logging

from ..checkpoints.reading import shortened_list
from .data_files import load_by_name
from .names import fold, match_names
from .rows import DrawnAnew


IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img")
LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")
SPLIT_FOLDERS = {"train": ("train",), "validation": ("validation", "val", "valid", "dev")}
INTERPOLATIONS = {"nearest": 0, "bilinear": 2, "bicubic": 3, "lanczos": 1}
IGNORED = -100  # the label of an image that could not be read
# The beginnings of names that systems give to what is no image, whatever it is called.
HIDDEN = (".", "__MACOSX")

logger = logging.get_logger(__name__)


@dataclass
class LabelledImages:
    """A split of a data set.

    Args:
        rows: with columns `image` (not decoded: `bytes` and `path`) and, unless it was not asked for, `label`.
        names: of the labels; None where the data has numbers alone, or they were not asked for.
        where: for messages.
    """

    rows: Dataset | IterableDataset
    names: list[str] | None
    where: str


def load_folder(data_dir: str, split: str, labelled: bool = True) -> LabelledImages:
    """A folder of images, one folder a class: `data_dir/<split>/<class>/*`, or for evaluation `data_dir/<class>/*`;
    where no labels are asked for, they may lie there in any way.

    Links are followed. What has a name of an image is one, also where it cannot be read; of what is left out, hidden
    and other files and folders without images, the log has the number.

    Raises:
        FileNotFoundError: there is no such folder.
        OSError: a folder may not be read.
        ValueError: it has no images in folders, or one that is not in the folder of a class; or the split has two
            folders; or the name of a class is no text; or a folder is a link that leads nowhere, or into itself.
    """
    folder = Path(os.path.abspath(_find_split(Path(data_dir), split)))
    found: dict[str, list[str]] = {}
    left_out: list[str] = []
    for path, is_image in _files(str(folder)):
        if is_image:
            found.setdefault(os.path.dirname(path), []).append(path)
        else:
            left_out.append(path)
    if not found:
        raise ValueError(f"{folder} has no images{' in folders of classes' * labelled}.")
    stray = next((paths[0] for parent, paths in found.items() if os.path.dirname(parent) != str(folder)), None)
    if labelled and stray is not None:
        raise ValueError(
            f"{_printable(stray)} is not in the folder of a class, {folder / '<class>'}; move it there, or take it "
            "out."
        )
    if left_out:
        shown = shortened_list([*map(_printable, left_out)])
        logger.warning(f"Of {folder} {len(left_out)} files and folders are left out: {shown}.")
    paths = sorted(path for paths in found.values() for path in paths)
    columns: dict[str, list] = {"image": list(map(_as_image, paths))}
    features = Features({"image": Image(decode=False)})
    names = None
    if labelled:
        names = sorted(map(os.path.basename, found))
        if unnamed := next((name for name in names if _printable(name) != name), None):
            raise ValueError(f"{folder / _printable(unnamed)} is the folder of a class: rename it in UTF-8.")
        number = {name: index for index, name in enumerate(names)}
        columns["label"] = [number[os.path.basename(os.path.dirname(path))] for path in paths]
        features["label"] = ClassLabel(names=names)
    return LabelledImages(Dataset.from_dict(columns, features), names, str(folder))


def _find_split(root: Path, split: str) -> Path:
    """The folder of a split, or for evaluation the one of all images; see [`load_folder`]."""
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    folders = {
        use: [root / name for name in names if (root / name).is_dir() or (root / name).is_symlink()]
        for use, names in SPLIT_FOLDERS.items()
    }
    if len(folders[split]) > 1:
        names = " and ".join(path.name for path in folders[split])
        raise ValueError(f"{root} has both {names}, which are names of one split; rename one of them.")
    if not folders[split] and (split == "train" or any(folders.values())):
        raise FileNotFoundError(f"{root} has no folder {' or '.join(SPLIT_FOLDERS[split])}.")
    return folders[split][0] if folders[split] else root


def _files(folder: str, within: tuple[str, ...] = ()) -> Iterator[tuple[str, bool]]:
    """The files below a folder, and whether each is an image by its name; and the folders that are left out.

    Raises:
        ValueError: a folder is a link that leads nowhere, or to a folder that it lies in.
    """
    real = os.path.realpath(folder)
    if real in within:
        raise ValueError(f"{_printable(folder)} is a link to a folder that it lies in; take it out.")
    is_empty = True
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        is_empty = False
        is_image = os.path.splitext(entry.name)[1].lower() in ImageFolder.EXTENSIONS
        if entry.name.startswith(HIDDEN):
            yield entry.path, False
        elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _files(entry.path, (*within, real))
        elif entry.is_symlink() and not is_image and not os.path.exists(entry.path):
            raise ValueError(f"{_printable(entry.path)} is a link that leads nowhere; mend it, or take it out.")
        else:
            yield entry.path, is_image
    if is_empty:
        yield folder, False


def _as_image(path: str) -> dict[str, Any]:
    """An image's entry in a column of images: its path, or, where that is no text, as such a column holds, a printable
    name and the content of the file."""
    name = _printable(path)
    if name == path:
        return {"path": path, "bytes": None}
    try:
        return {"path": name, "bytes": Path(path).read_bytes()}
    except OSError:
        return {"path": name, "bytes": b""}  # which is no image


def _printable(path: str) -> str:
    r"""A path as text: what is not UTF-8 in it is written like \udcff."""
    return path.encode("utf-8", "backslashreplace").decode()


def load_images(
    name: str,
    config_name: str | None,
    split: str,
    streaming: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = True,
) -> LabelledImages:
    """A split of a data set on the Hub or from a package; its columns are found by their usual names, that of the
    labels only where they are asked for.

    Raises:
        OSError: it cannot be fetched.
        ValueError: it has no such split or columns, or is empty.
    """
    rows, where = load_by_name(name, config_name, split, streaming=streaming), f"{split} of {name}"
    columns = rows.column_names or list(next(iter(rows)))
    found = []
    wanted = [(image_column, IMAGE_COLUMNS, "image"), (label_column, LABEL_COLUMNS, "label")]
    for given, usual, option in wanted if labelled else wanted[:1]:
        column = next((each for each in ([given] if given else usual) if each in columns), None)
        if column is None:
            raise ValueError(
                f"{where} has no column {given or ' or '.join(usual)}; its columns are {', '.join(columns)}; name it "
                f"by --{option}_column."
            )
        found.append(column)
    if isinstance(rows, Dataset) and not len(rows):
        raise ValueError(f"{where} is empty.")
    rows = rows.select_columns(found).cast_column(found[0], Image(decode=False))
    for column, name_here in zip(found, ("image", "label")):
        if column != name_here:
            rows = rows.rename_column(column, name_here)
    feature = (rows.features or {}).get("label")
    return LabelledImages(rows, feature.names if isinstance(feature, ClassLabel) else None, where)


def match_labels(names: Sequence[str] | None, config: PreTrainedConfig, where: str) -> list[int] | None:
    """For each label of the data its number among the model's; None where the data has the model's numbers.

    Labels are matched by their names, see [`match_names`]; names that are numbers (ImageNet-V2's folders, which sort
    as strings) are the model's numbers; ImageNet's 1,000 WordNet ids are in its order, that of the ids; and a model
    without names of its own has the data's order.

    Raises:
        ValueError: the labels cannot be matched.
    """
    if names is None:
        return None
    count = config.num_labels
    theirs = [str(config.id2label[index]) for index in range(count)]
    found = match_names(names, theirs, apart=True)
    if (matched := [place for place in found if place is not None]) and len(matched) == len(names):
        return matched
    if all(name.isdecimal() for name in names):
        numbers = [int(name) for name in names]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"{where} has two classes of the same number, such as 1 and 01; rename one of them.")
        if max(numbers) < count:
            return numbers
        raise ValueError(f"{where} has a class {max(numbers)}, but the model tells only {count} apart.")
    if len(names) == count:
        are_imagenets = count == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in names)
        if are_imagenets and list(names) == sorted(names):
            return list(range(count))
        if theirs == [f"LABEL_{index}" for index in range(count)]:
            return list(range(count))
        # Lists of ImageNet's names differ in the few that occur twice in it, such as crane.
        if count == 1000 and sum(fold(one) == fold(other) for one, other in zip(names, theirs)) >= 0.95 * count:
            return list(range(count))
    unknown = next((name for name, place in zip(names, found) if place is None), None)
    raise ValueError(
        f"{where} has a class {unknown!r}, which is not one of the {count} labels of "
        f"{getattr(config, 'name_or_path', '') or 'the model'} ({', '.join(theirs[:3])}, "
        "...); use another checkpoint, or train a new head with --do_train and --new_head."
    )


def match_validation(data: LabelledImages, config: PreTrainedConfig, real: bool) -> list[int] | None:
    """[`match_labels`], for an evaluation.

    Raises:
        ValueError: the labels cannot be matched; or there are `real` labels as well, and the model's classes are in
            another order than the data's.
    """
    labels = match_labels(data.names, config, data.where)
    numbers = data.names is not None and all(each.isdecimal() for each in data.names)
    if real and labels is not None and labels != sorted(labels) and not numbers:
        raise ValueError(
            f"ReaL labels are numbers in ImageNet's order, and the classes of {data.where} are in another than those "
            f"of {getattr(config, 'name_or_path', '') or 'the model'}: leave out --real_labels, or name the folders "
            "of the classes by their numbers."
        )
    return labels


def model_label(label: int, to_model: Sequence[int] | None, num_labels: int, where: str) -> int:
    """The model's number of a label of the data.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(label, int) or not 0 <= label < (num_labels if to_model is None else len(to_model)):
        raise ValueError(
            f"{where} has the label {label!r}, and labels must be whole numbers from 0 to {num_labels - 1}; of a new "
            "model or head --num_labels says how many there are."
        )
    return label if to_model is None else to_model[label]


def check_labels(data: LabelledImages, num_labels: int) -> None:
    """Looks at all labels, of rows that are not streamed, for [`model_label`].

    Raises:
        ValueError: one is not a number of a label.
    """
    if isinstance(data.rows, Dataset):
        known = num_labels if data.names is None else len(data.names)
        for label in data.rows.unique("label"):
            model_label(label, None, known, data.where)


# Where Exif has the orientation of the camera, and by its values what PIL (by `Image.Transpose`) does about it.
ORIENTATION, TURNS = 274, {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}


class CorruptImage(Exception):
    """An image that cannot be read; the message names it."""


# What PIL's readers raise at damaged files.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, RuntimeError)


def decode(image: dict[str, Any] | None) -> Any:
    """A PIL image in RGB.

    Raises:
        CorruptImage: it cannot be read.
    """
    from PIL import Image as PILImage

    if image is None:
        raise CorruptImage("an image: it is missing")
    path, content = image.get("path"), image.get("bytes")
    try:
        with PILImage.open(str(path) if content is None else io.BytesIO(content)) as opened:
            # Not by ImageOps, which writes the metadata anew and fails where they are damaged.
            turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
            return _in_rgb(opened if turn is None else opened.transpose(PILImage.Transpose(turn)))
    except (*UNREADABLE, PILImage.DecompressionBombError) as error:
        unknown = isinstance(error, PILImage.UnidentifiedImageError)  # whose message has an address in memory
        reason = "no image of a known kind" if unknown else " ".join(str(error).split())
        raise CorruptImage(f"{path or 'an image'}: {reason}") from error


def _in_rgb(image: Any) -> Any:
    """An image of PIL's in RGB; of one with more than 8 bits PIL would cut off all above 255.

    Raises:
        ValueError: it is not known what its numbers mean.
    """
    from PIL import Image as PILImage

    if image.mode == "F":
        raise ValueError("its pixels are fractions of an unknown range")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have more than 16 bits")
        step = 257 if image.mode != "I" or values.max() > 255 else 1
        image = PILImage.fromarray(np.uint8(values // step))
    return image.convert("RGB")


def load_processor(name: str) -> Any:
    """A checkpoint's image processor.

    Raises:
        OSError: it has none.
    """
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{name} has no image processor (preprocessor_config.json); add one to the checkpoint."
        ) from error
    vars(processor).pop("auto_map", None)  # as [`forget_code`] of a model
    return processor


@dataclass
class Preprocessing:
    """An image processor with what is to differ from it."""

    processor: Any
    options: dict[str, Any]
    image_size: tuple[int, int]
    crop_pct: float
    interpolation: str

    def __call__(self, image: Any) -> torch.Tensor:
        """`(channels, rows, columns)` in float32."""
        return self.processor(image, return_tensors="pt", **self.options)["pixel_values"][0]


def resolve_preprocessing(
    processor: Any, image_size: int | None = None, crop_pct: float | None = None, interpolation: str | None = None
) -> Preprocessing:
    """The checkpoint's own preprocessing, with other values where they are given.

    Args:
        processor: the checkpoint's image processor.
        image_size: side of the square that the model sees.
        crop_pct: that side as a fraction of the image's shorter side after resizing, as in timm.
        interpolation: of the resizing, one of `INTERPOLATIONS`.

    Raises:
        ValueError: the processor takes no `crop_pct` at this size.
    """
    size: dict[str, int] = dict(processor.size)
    options: dict[str, Any] = {}
    if getattr(processor, "crop_pct", None) is not None:  # ConvNext's, which ResNet uses
        rows = columns = image_size or size["shortest_edge"]
        own = processor.crop_pct
        if rows >= 384:
            own = 1.0
            if crop_pct not in (None, 1.0):
                raise ValueError(
                    "From 384 pixels on this checkpoint's image processor takes the whole image; leave out --crop_pct."
                )
        if image_size is not None:
            options["size"] = {"shortest_edge": image_size}
        if crop_pct is not None:
            options["crop_pct"] = crop_pct
    else:
        crops = bool(getattr(processor, "do_center_crop", False))
        seen = dict(processor.crop_size) if crops else size
        rows, columns = (seen[name] if name in seen else seen["shortest_edge"] for name in ("height", "width"))
        own = min(rows, columns) / size.get("shortest_edge", min(size.get("height", rows), size.get("width", columns)))
        if image_size is not None:
            rows = columns = image_size
            options["size"] = {"height": image_size, "width": image_size}
        if crop_pct is not None or (crops and image_size is not None):
            options = {
                "do_center_crop": True,
                "size": {"shortest_edge": round(min(rows, columns) / (crop_pct or own))},
                "crop_size": {"height": rows, "width": columns},
            }
    resample = processor.resample if interpolation is None else INTERPOLATIONS[interpolation]
    if interpolation is not None:
        options["resample"] = resample
    names = {number: name for name, number in INTERPOLATIONS.items()}
    used = names.get(int(resample), str(resample))
    return Preprocessing(processor, options, (rows, columns), crop_pct or own, used)


def normalization(processor: Any) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, a number a channel, by which an image processor normalises pixels from 0 to 1: with
    (0, 1) where it does not, and in these units where it scales pixels otherwise."""
    mean, std = [0.0] * 3, [1.0] * 3
    if getattr(processor, "do_normalize", True):
        mean, std = list(processor.image_mean), list(processor.image_std)
    scale = 255 * processor.rescale_factor if getattr(processor, "do_rescale", True) else 255
    return [each / scale for each in mean], [each / scale for each in std]


def as_pair(size: Any) -> tuple[int, int]:
    """(rows, columns) of a size that may be given as the side of a square."""
    return (size, size) if isinstance(size, int) else tuple(size)


def load_real_labels(path: str) -> list[list[int]]:
    """The labels of "Are we done with ImageNet?" (Beyer et al., 2020): for each validation image, in the order of
    their numbers, those that are right.

    Raises:
        ValueError: the file is not a JSON list of lists of numbers.
        OSError: it cannot be read.
    """
    try:
        labels = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(labels, list) or not all(
        isinstance(each, list) and all(isinstance(label, int) for label in each) for each in labels
    ):
        raise ValueError(f"{path} must hold a list with a list of label numbers for each validation image.")
    return labels


def validation_number(path: str | None, where: str) -> int:
    """The number, from 0, of an image of ImageNet's validation set, which its file name has."""
    match = re.search(r"ILSVRC2012_val_(\d{8})", path or "")
    if match is None:
        raise ValueError(
            f"ReaL labels are found by the images' file names, ILSVRC2012_val_00000001 and so on; {where} has "
            f"{path or 'an image without a name'}."
        )
    return int(match[1]) - 1


# Training


@dataclass
class Augmentation:
    """The field's random changes of training images, each off at 0.

    Args:
        image_size: (rows, columns) of the result.
        crop_min_scale: smallest part of the image's area that is cropped and resized (Szegedy et al., 2015); at 1 the
            image is resized and not cropped.
        flip: probability of a horizontal flip.
        rand_augment: magnitude of two random operations of RandAugment (Cubuk et al., 2020).
        random_erasing: probability of erasing a rectangle (Zhong et al., 2020).
        mean, std: of the normalisation, one number a channel.
        interpolation: one of `INTERPOLATIONS`.
    """

    image_size: tuple[int, int]
    crop_min_scale: float
    flip: float
    rand_augment: int
    random_erasing: float
    mean: Sequence[float]
    std: Sequence[float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        v2 = import_transforms()
        mode = v2.InterpolationMode(self.interpolation)
        size = list(self.image_size)
        steps = [
            v2.RandomResizedCrop(size, scale=(self.crop_min_scale, 1.0), interpolation=mode)
            if self.crop_min_scale < 1
            else v2.Resize(size, interpolation=mode)
        ]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.rand_augment:
            no_turns = mode == v2.InterpolationMode.LANCZOS  # by which PIL resizes alone
            turn_mode = v2.InterpolationMode.BICUBIC if no_turns else mode
            steps.append(v2.RandAugment(magnitude=self.rand_augment, interpolation=turn_mode))
        steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(self.mean), list(self.std))]
        if self.random_erasing:
            steps.append(v2.RandomErasing(self.random_erasing))
        self.transform = v2.Compose(steps)

    def __call__(self, image: Any, seed: int) -> torch.Tensor:
        """`(channels, rows, columns)` in float32, the same for the same seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return torch.Tensor(self.transform(image))


def import_transforms() -> Any:
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise ImportError("Training on images needs torchvision: pip install 'cp-transformers[vision]'.") from error
    return v2


@dataclass
class DrawImage:
    """Makes an example of a row with an image.

    Args:
        transform: from an image and a seed to `(channels, rows, columns)`, such as [`Augmentation`].
    """

    transform: Callable[[Any, int], torch.Tensor]

    def __call__(self, row: dict[str, Any], seed: int) -> dict[str, Any]:
        return {"pixel_values": self.transform(decode(row["image"]), seed)}


class TrainingImages(DrawnAnew):
    """Augmented images. In the place of one that cannot be read stands the next that can, and `report` is called."""

    def __init__(self, rows: Any, draw: Callable[[Any, int], Any], seed: int, report: Callable[[str], None]):
        super().__init__(rows, draw, seed)
        self.report = report

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There is no training image {index}; there are {len(self)}.")
        for step in range(len(self)):
            try:
                return super().__getitem__((index + step) % len(self))
            except CorruptImage as error:
                self.report(str(error))
        raise ValueError("None of the training images can be read.")


@dataclass
class MixingCollator:
    """Stacks images, and mixes each with another by Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019), one of
    the two a batch; the labels are then probabilities, `(batch, labels)`.

    Args:
        num_labels: of the model.
        mixup, cutmix: their alphas, each off at 0.
    """

    num_labels: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixel_values = torch.stack([example["pixel_values"] for example in examples])
        labels = torch.tensor([example["labels"] for example in examples])
        if "seed" in examples[0] and (self.mixup or self.cutmix):
            v2 = import_transforms()
            mixing = [v2.MixUp(alpha=self.mixup, num_classes=self.num_labels)] if self.mixup else []
            mixing += [v2.CutMix(alpha=self.cutmix, num_classes=self.num_labels)] if self.cutmix else []
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(examples[0]["seed"])
                pixel_values, labels = v2.RandomChoice(mixing)(pixel_values, labels)
        return {"pixel_values": pixel_values, "labels": labels}
